"""The CUDA kernels on a GPU, against the definitions in float64 and against Triton's."""

import sys
from types import MappingProxyType

import conv_cases
import pytest
import torch
from cases import assert_as_near, assert_near, errors, gradients, run_exact, run_scan, scan_inputs, sum_error
from conv_cases import Case as Window
from conv_cases import both as both_windows
from cuda_variants import Recorded, compile_together, recorded
from mixer_cases import Case as Layer
from mixer_cases import run
from norm_cases import both as both_norms
from norm_cases import exact as exact_norm
from norm_cases import tensors as norm_tensors

from vlm_core.interfaces import PADDING
from vlm_ssm import backends, boundaries_of, ops, selective_scan
from vlm_ssm.registration.inputs import ScanInputs

if backends.missing("cuda"):
    pytest.skip("the kernels need a CUDA device", allow_module_level=True)

from vlm_ssm.cuda import compiler, conv, reduce, scan, scan_backward, scan_forward
from vlm_ssm.cuda.norms import layer_norm, rms_norm
from vlm_ssm.cuda.scan_inputs import TILE
from vlm_ssm.triton import conv as triton_conv
from vlm_ssm.triton import norm as triton_norm
from vlm_ssm.triton import scan as triton_scan

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
HALVES = (BF16, FP16)
ROUNDING = MappingProxyType({torch.bfloat16: 3e-3, torch.float16: 1.5e-3, torch.float32: 3e-6})


@pytest.fixture(scope="module", autouse=True)
def _compiled(request):
    """Kernels of all selected tests, side by side."""

    scan_op = ops.scan

    def stop(*_, **__):
        raise Recorded

    def run(item):
        def once(patch):
            patch.setattr(sys.modules[__name__], "run_exact", stop)
            patch.setattr(conv_cases, "exact", stop)
            patch.setattr(
                ops, "scan", lambda inputs, use: scan_op(inputs, use=use) if use == "cuda" else stop()
            )
            values = {"monkeypatch": patch, **(item.callspec.params if hasattr(item, "callspec") else {})}
            code = item.function.__code__
            needed = {n: v for n, v in values.items() if n in code.co_varnames[: code.co_argcount]}
            item.function(**needed)

        return once

    items = [item for item in request.session.items if item.module is request.module]
    with torch.device("cuda"):
        variants = recorded(
            (conv, layer_norm, rms_norm, reduce, scan_backward, scan_forward), map(run, items)
        )
    major, minor = torch.cuda.get_device_capability()
    compile_together(variants, compiler.target(10 * major + minor))


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
    monkeypatch.setattr(triton_norm, "add_rms_norm", refuse)


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


@pytest.mark.parametrize(("width", "groups", "states"), [(24, 1, 72), (15, 3, 16)])
def test_cases_that_go_to_triton(width, groups, states):
    """Large states, groups of few channels: with the accuracy of Triton's kernels."""
    case = scan_inputs(2, 40, width, states, groups)
    exact = run_exact(case)
    assert_as_near(run_scan("cuda", case), exact, errors(run_scan("torch", case), exact), 2e-6)


SIZES = [
    # states, dtype, batch, length, width, groups, absent, segments, parts of time
    (8, BF16, 2, 333, 136, 1, (), "none", 1), (8, FP32, 3, 70, 96, 3, (), "any", 5),
    (8, FP16, 1, 129, 200, 1, ("z", "D"), "any", 1), (16, FP32, 2, 333, 136, 1, (), "none", 1),
    (16, FP32, 3, 170, 96, 3, ("D",), "any", 5), (16, FP32, 1, 70, 72, 1, ("z", "delta_bias"), "any", 1),
    (24, BF16, 2, 100, 64, 2, ("initial_state",), "any", 1), (24, FP32, 2, 33, 64, 1, (), "none", 1),
    (32, BF16, 2, 129, 64, 2, ("D",), "any", 5), (32, FP32, 2, 333, 136, 1, (), "none", 1),
    (32, FP16, 1, 70, 40, 1, ("z",), "none", 1), (48, BF16, 2, 70, 72, 1, (), "any", 1),
    (64, BF16, 2, 333, 136, 1, (), "any", 1), (64, BF16, 1, 170, 96, 3, ("z",), "none", 5),
    (64, FP32, 2, 100, 72, 1, (), "any", 1), (64, FP16, 2, 65, 64, 1, ("D",), "none", 1),
    (20, FP32, 2, 40, 30, 1, (), "any", 1), (5, BF16, 2, 70, 13, 1, (), "none", 1),
    (16, BF16, 2, 100, 36, 3, (), "any", 1), (50, BF16, 1, 70, 24, 1, (), "none", 1),
]  # fmt: skip


def divide_time(monkeypatch, length, parts):
    """Into about so many parts; as the launches would by themselves if `parts` is 1."""
    if parts == 1:
        return
    tiles = -(-length // TILE)
    each, split = -(-tiles // parts), scan_forward.forward_split
    divided = {"parts": -(-tiles // each), "part_tiles": each}
    monkeypatch.setattr(scan_forward, "forward_split", lambda *a: split(*a)._replace(**divided))
    monkeypatch.setattr(scan_backward, "backward_parts", lambda *_: tuple(divided.values()))


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize(
    ("states", "dtype", "batch", "length", "width", "groups", "absent", "kind", "parts"), SIZES, ids=str
)
def test_state_sizes(states, dtype, batch, length, width, groups, absent, kind, parts, monkeypatch):
    """Any state size up to 64, gradients of fp32 rows, widths that are no multiple of 8."""
    divide_time(monkeypatch, length, parts)
    case = scan_inputs(batch, length, width, states, groups, absent=absent, dtype=dtype)
    segments = marks(kind, batch, length)
    found, exact = run_scan("cuda", case, True, segments), run_exact(case, True, segments)
    if dtype == FP32:
        assert_as_near(found, exact, errors(run_scan("torch", case, True, segments), exact), 2e-6)
    else:
        near(found, exact, dtype)


@pytest.mark.usefixtures("no_triton")
def test_scan_without_softplus():
    case = scan_inputs(2, 100, 72, 16, absent=("delta_bias",), dtype=torch.bfloat16)
    case["delta"] = case["delta"].detach().abs().requires_grad_()
    segments = marks("any", 2, 100)
    near(run_scan("cuda", case, False, segments), run_exact(case, False, segments), torch.bfloat16)


def along_directions(K, keep, own, gated, segmented, S=16):
    """Tensors by name in bf16 where kernels read that, scan orders, `reset`."""
    N, T, E, P, J = 2, 77, 72, K if own else 1, K if keep else 1
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
    check_directions(along_directions(directions, keep, own, gated, segmented), keep)


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("directions", [2, 4])
@pytest.mark.parametrize(
    ("own", "gated", "segmented"), [(False, True, False), (True, False, True), (True, True, True)]
)
def test_directions_that_wait_for_each_other(directions, own, gated, segmented, monkeypatch):
    """Sums of directions within one launch, as where blocks of one direction fill the GPU."""
    monkeypatch.setattr(scan, "can_chain", lambda _: True)
    split = scan_forward.forward_split
    whole = {"parts": 1, "part_tiles": 3}
    monkeypatch.setattr(scan_forward, "forward_split", lambda *a: split(*a)._replace(**whole))
    check_directions(along_directions(directions, False, own, gated, segmented), False)


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("states", [8, 64])
@pytest.mark.parametrize("keep", [False, True])
def test_directions_of_other_states(states, keep):
    check_directions(along_directions(2, keep, keep, True, True, states), keep)


def check_directions(case, keep):
    (halves, order, reset), results = case, []
    for use, change in (("cuda", lambda t: t), ("torch", torch.Tensor.float)):
        tensors = {n: change(t.detach().clone()).requires_grad_() for n, t in halves.items()}
        inputs = ScanInputs(**tensors, reset=reset, scan_order=order, softplus=True, keep_directions=keep)
        y, last = ops.scan(inputs, use=use)
        found = {"y": y, "last": last} | gradients([y, last], tensors)
        results.append({n: t.float() for n, t in found.items()})
    far = {n: e for n, e in errors(*results).items() if not e <= 8e-3}
    assert not far, far


@pytest.mark.parametrize(("states", "dtype"), [(16, torch.bfloat16), (64, torch.float32)], ids=str)
def test_the_same_bits_every_time(states, dtype):
    case = scan_inputs(2, 700, 512, states, dtype=dtype)
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


NORMS = [
    ((3, 5, 20), BF16, True), ((2, 9, 64), FP16, True), ((7, 1152), FP32, True), ((1500, 2560), BF16, True),
    ((700, 512), FP32, True), ((40, 5120), BF16, False), ((3, 8192), BF16, True), ((9, 4), FP32, False),
]  # fmt: skip


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize(("shape", "dtype", "added"), NORMS, ids=str)
def test_norm(shape, dtype, added):
    """The sum in fp32, y in the weight's dtype, every gradient in the dtype of its tensor; the same bits again."""
    torch.manual_seed(0)
    case = norm_tensors(shape, added, dtype)
    found, wanted = both_norms("cuda", case)
    weight = "grad weight"  # its terms cancel
    assert_near({weight: found[weight]}, {weight: wanted[weight]}, max(1e-5, 2 * ROUNDING[dtype]))
    limit = max(2e-6, 2 * ROUNDING[dtype])
    others = ({n: t for n, t in values.items() if n != weight} for values in (found, wanted))
    assert_near(*others, limit)
    assert all(found[f"grad {n}"].dtype == t.dtype for n, t in case.items() if t is not None)
    again = both_norms("cuda", case)[0]
    assert all(torch.equal(again[n], t) for n, t in found.items())


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("used", [0, 1], ids=["summed", "y"])
def test_gradient_of_one_output_of_the_norm(used):
    case = norm_tensors((3, 5, 64), True, BF16)
    double = {n: t.detach().double().requires_grad_() for n, t in case.items()}
    names = list(case)[: 2 + used]
    outputs = ops.add_rms_norm(**case, eps=1e-5, use="cuda")[used], exact_norm(**double, eps=1e-5)[used]
    found, wanted = (
        dict(zip(names, torch.autograd.grad(y.double().sin().sum(), [given[n] for n in names]), strict=True))
        for y, given in zip(outputs, (case, double), strict=True)
    )
    assert_near(found, wanted, 2e-2)


def test_a_width_that_goes_to_triton():
    assert_near(*both_norms("cuda", norm_tensors((3, 5, 21), added=True)), 1e-5)


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize(
    "kinds", [(BF16, BF16, BF16), (BF16, FP32, BF16), (FP32, FP32, FP32), (FP16, FP16, FP32)]
)
@pytest.mark.parametrize("shape", [(3, 5, 20), (1200, 2560), (7, 1152)])
def test_layer_norm_of_a_sum(shape, kinds):
    """y and every gradient against float64; the same bits again."""
    torch.manual_seed(0)
    case = {"x": torch.randn(shape).to(kinds[0]), "skip": 3 + torch.randn(shape).to(kinds[1])}
    case = {
        n: t.requires_grad_()
        for n, t in (case | {n: torch.randn(shape[-1]) for n in ("weight", "bias")}).items()
    }

    def run():
        y = layer_norm.add_layer_norm(**case, eps=1e-5, dtype=kinds[2])
        return {"y": y} | gradients([y], case)

    double = {n: t.detach().double().requires_grad_() for n, t in case.items()}
    summed = double["x"] + double["skip"]
    exact = torch.nn.functional.layer_norm(summed, summed.shape[-1:], double["weight"], double["bias"], 1e-5)
    found, limit = run(), max(1e-5, 2 * max(ROUNDING[kind] for kind in kinds))
    wanted = {"y": exact} | gradients([exact], double)
    rows = torch.linspace(-1, 1, exact.numel(), dtype=torch.float64).view(-1, shape[-1])
    assert sum_error(found["grad bias"], wanted.pop("grad bias"), rows) <= limit  # the rows' gradients cancel
    assert_near({name: found[name] for name in wanted}, wanted, limit)
    assert found["y"].dtype == kinds[2]
    assert all(torch.equal(t, run()[n]) for n, t in found.items())
