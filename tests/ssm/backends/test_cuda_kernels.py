"""The CUDA kernels on a GPU, against the definitions in float64 and against Triton's."""

from types import MappingProxyType

import pytest
import torch
from cases import assert_as_near, assert_near, errors, gradients, run_exact, run_scan, scan_inputs
from conv_cases import Case as Window
from conv_cases import both as both_windows
from mixer_cases import Case as Layer
from mixer_cases import run

from vlm_core.interfaces import PADDING
from vlm_ssm import backends, boundaries_of, ops, selective_scan
from vlm_ssm.registration.inputs import ScanInputs

if backends.missing("cuda"):
    pytest.skip("the kernels need a CUDA device", allow_module_level=True)

from vlm_ssm.cuda import scan_backward, scan_forward
from vlm_ssm.cuda.scan_inputs import TILE
from vlm_ssm.triton import conv as triton_conv
from vlm_ssm.triton import scan as triton_scan

HALVES = (torch.bfloat16, torch.float16)
ROUNDING = MappingProxyType({torch.bfloat16: 3e-3, torch.float16: 1.5e-3, torch.float32: 3e-6})


@pytest.fixture(autouse=True)
def _on_the_gpu():
    with torch.device("cuda"):
        yield


@pytest.fixture
def no_triton(monkeypatch):
    """Fails where a case is not covered."""

    def refuse(*_, **__):
        raise AssertionError("went to Triton")

    monkeypatch.setattr(triton_scan, "scan", refuse)
    monkeypatch.setattr(triton_conv, "conv", refuse)


def marks(kind, batch, length):
    if kind == "none":
        return None
    numbers = torch.randint(0, 3, (batch, length))
    return torch.where(torch.rand(batch, length) < 0.3, PADDING, numbers)


def near(found, exact, dtype, what=""):
    far = {n: e for n, e in errors(found, exact).items() if not e <= 2 * ROUNDING[dtype]}
    assert not far, f"{what}: {far}"


SCANS = [
    # batch, length, width, groups, absent, segments
    (2, 333, 136, 1, (), "none"),
    (3, 70, 96, 3, (), "any"),
    (1, 729, 200, 1, ("z", "D"), "any"),
    (2, 1, 64, 1, ("initial_state",), "none"),
    (1, 64, 72, 1, ("delta_bias", "z"), "none"),
    (2, 129, 64, 2, ("D",), "any"),
    (1, 33, 8, 1, (), "any"),
]


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("lanes", [2, 4, 8])
@pytest.mark.parametrize(("batch", "length", "width", "groups", "absent", "kind"), SCANS)
def test_scan(batch, length, width, groups, absent, kind, lanes, parts, dtype, monkeypatch):
    """Outputs, state and every gradient; widths over a block, groups, odd lengths, segments, parts of time."""
    if lanes != 2 and dtype != torch.bfloat16:
        pytest.skip("others do it")
    tiles = -(-length // TILE)
    each = -(-tiles // parts)
    divided = (-(-tiles // each), each)
    block = {2: 64, 4: 32, 8: 40}[lanes]
    monkeypatch.setattr(scan_forward, "forward_split", lambda *_: scan_forward.Split(block, lanes, *divided))
    monkeypatch.setattr(scan_backward, "backward_parts", lambda *_: divided)
    case = scan_inputs(batch, length, width, 16, groups, absent=absent, dtype=dtype)
    segments = marks(kind, batch, length)
    near(run_scan("cuda", case, True, segments), run_exact(case, True, segments), dtype)


@pytest.mark.usefixtures("no_triton")
def test_fp32_rows_without_gradients():
    case = scan_inputs(2, 333, 136, 16)
    with torch.no_grad():
        found = selective_scan(**case, delta_softplus=True, return_last_state=True, backend="cuda")
        wanted = selective_scan(**case, delta_softplus=True, return_last_state=True, backend="torch")
    assert_near(*({"y": y, "last": last} for y, last in (found, wanted)), 3e-6)


@pytest.mark.parametrize(("width", "states"), [(24, 16), (24, 8), (30, 16), (16, 64)])
def test_cases_that_go_to_triton(width, states):
    """fp32 gradients, other state sizes, widths that 8 doesn't divide: with the accuracy of Triton's kernels."""
    case = scan_inputs(2, 40, width, states)
    exact = run_exact(case)
    assert_as_near(run_scan("cuda", case), exact, errors(run_scan("torch", case), exact), 2e-6)


@pytest.mark.usefixtures("no_triton")
def test_scan_without_softplus():
    case = scan_inputs(2, 100, 72, 16, absent=("delta_bias",), dtype=torch.bfloat16)
    case["delta"] = case["delta"].detach().abs().requires_grad_()
    segments = marks("any", 2, 100)
    near(run_scan("cuda", case, False, segments), run_exact(case, False, segments), torch.bfloat16)


def along_directions(K, keep, own, gated, segmented):
    """Tensors by name in bf16 where kernels read that, scan orders, `reset`."""
    N, T, E, S, P, J = 2, 77, 72, 16, K if own else 1, K if keep else 1
    shapes = {
        "u": (K, N, T, E),
        "dt": (K, N, T, E),
        "A": (P, E, S),
        "B": (K, N, T, 1, S),
        "C": (K, N, T, 1, S),
        "D": (P, E),
        "bias": (P, E),
        "z": (N, T, J, E),
        "h0": (K, N, E, S),
    }
    tensors = {n: torch.randn(shape) for n, shape in shapes.items() if gated or n != "z"}
    tensors["A"] = -tensors["A"].exp()
    halves = {n: t.bfloat16() if n in ("u", "dt", "B", "C", "z") else t for n, t in tensors.items()}
    order = torch.stack([torch.randperm(T) for _ in range(K)])
    reset = boundaries_of(torch.randint(-1, 3, (N, T)).sort(1).values).reset if segmented else None
    return halves, order, reset


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_directions(directions, keep, own, gated, segmented):
    """Summed or apart, shared or own parameters, with and without gate, against plain torch in fp32."""
    halves, order, reset = along_directions(directions, keep, own, gated, segmented)
    results = []
    for use, change in (("cuda", lambda t: t), ("torch", torch.Tensor.float)):
        tensors = {n: change(t.detach().clone()).requires_grad_() for n, t in halves.items()}
        inputs = ScanInputs(**tensors, reset=reset, scan_order=order, softplus=True, keep_directions=keep)
        y, last = ops.scan(inputs, use=use)
        found = {"y": y, "last": last} | gradients([y, last], tensors)
        results.append({n: t.float() for n, t in found.items()})
    far = {n: e for n, e in errors(*results).items() if not e <= 8e-3}
    assert not far, far


def test_the_same_bits_every_time():
    case = scan_inputs(2, 700, 512, 16, dtype=torch.bfloat16)
    first, second = (run_scan("cuda", case) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_layer_as_one_operation(norm, segmented, monkeypatch):
    """Against separate operations; weights' gradients, summed in fp32, differ by the rounding of theirs to bf16."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", "cuda")
    case = Layer(2, 77, segmented=segmented, state=True, norm=norm, width=32, states=16)
    found, again, wanted = (run(case, case.layer(), fused, autocast=True) for fused in (True, True, False))
    assert_near(found, wanted, 4e-3)
    assert all(torch.equal(found[name], again[name]) for name in found)


WINDOWS = [
    Window(2, 9, 8, 4), Window(2, 109, 136, 4, state=True), Window(1, 3, 16, 3, state=True), Window(2, 7, 8, 2, K=3),
    Window(2, 70, 8, 3, K=2, own_rows=True, own_weights=True), Window(2, 70, 8, 4, K=2, own_weights=True),
    Window(2, 90, 8, 4, state=True, segmented=True), Window(2, 1, 8, 4, state=True),
    Window(2, 150, 72, 4, segmented=True), Window(2, 333, 72, 4, K=4),
]  # fmt: skip


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_conv(case):
    assert_near(*both_windows("cuda", *case.build()), 2e-5)
    found, wanted = both_windows("cuda", *case.build(torch.bfloat16))
    assert_near(found, wanted, 6e-3)
