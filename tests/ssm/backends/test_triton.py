"""Triton's kernels against the definitions in float64: on a GPU, or, with TRITON_INTERPRET=1, in its interpreter.

`test_interpreter.py` runs these in a process of its own on machines without a GPU. There tiles and chunks are
small, so that few positions already make several parts of time.
"""

from typing import Any

import pytest
import torch
from cases import assert_as_near, assert_near, errors, run_exact, run_scan, scan_inputs
from conv_cases import Case as Window
from conv_cases import both as both_windows
from norm_cases import both as both_norms
from norm_cases import tensors as norm_tensors
from scan_order_cases import Case as Routes
from scan_order_cases import run as run_directions
from triton_here import CUDA, ROUNDING, place

from vlm_core.interfaces import PADDING
from vlm_ssm import selective_scan
from vlm_ssm.triton import norm, scan

__all__ = ["place"]


def marks(kind, batch, length):
    """Segment numbers with padding anywhere."""
    if kind == "none":
        return None
    numbers = torch.randint(0, 3, (batch, length))
    return torch.where(torch.rand(batch, length) < 0.3, PADDING, numbers)


def long(short, on_gpu):
    """Sizes that the interpreter can bear, and those for a GPU."""
    return on_gpu if CUDA else short


SCANS: list[tuple[Any, ...]] = [
    # sizes in the interpreter, on a GPU, absent, scale, segments
    ((1, 9, 6, 2), (2, 333, 130, 16), (), 1.0, "none"),
    ((1, 7, 4, 2, 2), (3, 70, 96, 5, 3), (), 1.0, "any"),
    ((1, 13, 3, 1), (1, 729, 200, 1), ("z", "D"), 1.0, "any"),
    ((1, 1, 5, 2), (2, 1, 65, 16), ("initial_state",), 1.0, "none"),
    ((1, 5, 70, 1), (1, 64, 70, 128), ("delta_bias", "z"), 5.0, "none"),
    ((1, 4, 5, 3), (2, 129, 64, 64), ("D",), 1e-3, "any"),
]


@pytest.mark.parametrize("programs", [1, 10**6], ids=["one part of time", "many parts"])
@pytest.mark.parametrize(("short", "full", "absent", "scale", "kind"), SCANS)
def test_scan(short, full, absent, scale, kind, programs, monkeypatch):
    """Outputs, state and every gradient; widths over a block, groups, odd lengths, segments."""
    if not CUDA and programs == 1 and short[1] > 7:
        pytest.skip("slow in the interpreter, and others do it")
    monkeypatch.setattr(scan, "PROGRAMS", programs)
    sizes = long(short, full)
    case = scan_inputs(*sizes, absent=absent, scale=scale)
    segments = marks(kind, *sizes[:2])
    exact = run_exact(case, True, segments)
    reference = errors(run_scan("torch", case, True, segments), exact)
    assert_as_near(run_scan("triton", case, True, segments), exact, reference, 2e-6)


def test_scan_without_softplus():
    case = scan_inputs(*long((1, 6, 3, 2), (2, 100, 70, 16)), absent=("delta_bias",))
    case["delta"] = case["delta"].detach().abs().requires_grad_()
    assert_near(run_scan("triton", case, False), run_exact(case, False), 5e-6)


def test_parts_equal_the_whole(monkeypatch):
    """The number of programs that a GPU is thought to need decides nothing but speed; forgetting crosses parts."""
    case = {n: t.detach() for n, t in scan_inputs(*long((1, 14, 3, 2), (2, 1000, 64, 16))).items()}
    numbers = torch.arange(case["u"].shape[2]).expand(len(case["u"]), -1) // long(5, 300)
    made = []
    for programs in (1, 10**6):
        monkeypatch.setattr(scan, "PROGRAMS", programs)
        made.append(
            selective_scan(
                **case, segments=numbers, delta_softplus=True, return_last_state=True, backend="triton"
            )
        )
    (y, last), (wanted, end) = made
    assert_near({"y": y, "last": last}, {"y": wanted, "last": end}, 1e-6)


@pytest.mark.parametrize("value", [80.0, 1e4, -80.0, -1e4])
def test_extreme_steps_and_gates(value):
    """Δ of ±80 and ±1e4 under the softplus, gates of ±1e4: finite, and what float64 says."""
    case = scan_inputs(*long((1, 6, 6, 2), (1, 200, 18, 8)))
    with torch.no_grad():
        case["delta"][:, ::3], case["z"][:, 1::3], case["z"][:, 2::3] = value, 1e4, -1e4
    found, exact = run_scan("triton", case), run_exact(case)
    assert all(t.isfinite().all() for t in found.values())
    assert_as_near(found, exact, errors(run_scan("torch", case), exact), 2e-6)


def test_bf16_in_and_out_with_fp32_inside():
    rough = scan_inputs(*long((1, 5, 4, 2), (2, 500, 130, 16)), dtype=torch.bfloat16)
    found, exact = run_scan("triton", rough), run_exact(rough)
    assert found["y"].dtype == found["grad u"].dtype == torch.bfloat16
    assert_near({"last": found.pop("last")}, {"last": exact.pop("last")}, 2e-6)
    assert_near({"y": found.pop("y")}, {"y": exact.pop("y")}, ROUNDING)
    assert_near(found, exact, 2 * ROUNDING)  # they begin with a rounded gradient


ROUTES = [
    Routes(K=2, keep_directions=False, own=False, gated=True),
    Routes(K=4, keep_directions=False, own=False, gated=False, optional=CUDA),
    Routes(K=2, keep_directions=True, own=True, gated=True, segmented=True),
    Routes(K=1, keep_directions=False, own=False, gated=True),
    Routes(K=2, keep_directions=False, own=True, gated=True, optional=False),
]  # fmt: skip


@pytest.mark.parametrize("case", ROUTES)
def test_directions(case, monkeypatch):
    """All directions at once, summed or kept apart, by shared or own parameters."""
    monkeypatch.setattr(scan, "PROGRAMS", 10**6 if CUDA else 1)
    case = case._replace(length=long(3, 150), width=long(2, 70))
    assert_near(
        run_directions("triton", case), run_directions("reference" if not CUDA else "torch", case), 5e-6
    )


@pytest.mark.parametrize("name", ["u", "B", "initial_state"])
def test_nan_stays_visible_and_in_its_place(name):
    """Nothing else gets it; forgetting ends it."""
    case = {n: t.detach() for n, t in scan_inputs(2, 7, 4, 2, 2).items()}
    case[name][{"u": (1, 1, 2), "B": (1, 0, 1, 2), "initial_state": (1, 1, 0)}[name]] = torch.nan
    numbers = torch.tensor([[0, 0, 0, 0, 0, 1, 1]] * 2)
    y, last = selective_scan(**case, segments=numbers, return_last_state=True, backend="triton")
    bad = torch.zeros_like(y, dtype=torch.bool)
    bad[1, slice(0, 2) if name == "B" else 1, 0 if name == "initial_state" else 2 : 5] = True
    assert torch.equal(y.isnan(), bad)
    assert not last.isnan().any()


def test_layouts_and_gaps():
    """Parts of wider rows, as a layer's projections hand them over."""
    case = scan_inputs(*long((2, 3, 4, 1), (2, 100, 64, 16)))

    def wide(t):
        if t.ndim < 3:
            return t
        return torch.cat([t, t], dim=1).movedim(1, -1).contiguous().movedim(-1, 1)[:, : t.shape[1]]

    turned = {n: wide(t.detach()).requires_grad_() for n, t in case.items()}
    assert_near(run_scan("triton", turned), run_scan("triton", case), 1e-6)


WINDOWS = [
    Window(2, 9, 5, 4), Window(2, 9, 5, 4, state=True, segmented=True), Window(1, 3, 2, 5, state=True),
    Window(2, 7, 3, 3, K=3), Window(2, 7, 3, 3, K=2, own_rows=True, own_weights=True),
    Window(1, 4, 2, 1, bias=False), Window(1, 10, 130, 4, segmented=True),
    Window(2, 11, 6, 4, K=2, own_weights=True),
]  # fmt: skip


@pytest.mark.parametrize("case", WINDOWS)
def test_conv(case):
    """Window after window; state, segments, scan orders; outputs and gradients."""
    found, wanted = both_windows("triton", *case.build())
    assert_near(found, wanted, 5e-6)


def test_bf16_conv():
    found, wanted = both_windows("triton", *Window(2, 12, 21, 4, state=True).build(torch.bfloat16))
    assert all(t.dtype == torch.bfloat16 for t in found.values())
    assert_near(found, wanted, 2 * ROUNDING)


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 70), (1, 1)])
def test_norm(shape, added, monkeypatch):
    """Odd widths, several rows a program, with and without `out`."""
    monkeypatch.setattr(norm, "PROGRAMS", 2)
    found, wanted = both_norms("triton", norm_tensors(shape, added))
    if shape[-1] == 1:
        found, wanted = (
            {n: t for n, t in made.items() if not n.startswith("grad")} for made in (found, wanted)
        )
    assert_near(found, wanted, 5e-6)


def test_bf16_norm():
    case = norm_tensors((2, 9, 37), True, torch.bfloat16)
    found, wanted = both_norms("triton", case)
    assert found["y"].dtype == torch.bfloat16
    assert_near(found, wanted, 2 * ROUNDING)


def test_empty_batch():
    case = {n: t.detach() for n, t in scan_inputs(0, 3, 5, 4).items()}
    assert selective_scan(**case, backend="triton").shape == (0, 5, 3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_registration():
    """What torch expects of an operation; only shapes where a kernel would have to be interpreted often."""
    leaf = lambda *shape: torch.randn(shape, requires_grad=True)  # noqa: E731
    rows, matrix, channels = (1, 1, 2, 2), (1, 1, 2, 1, 1), (1, 2)
    arguments = (
        leaf(*rows),
        leaf(*rows),
        leaf(1, 2, 1),
        leaf(*matrix),
        leaf(*matrix),
        leaf(*channels),
        leaf(*channels),
        leaf(1, 2, 1, 2),
        None,
        None,
        None,
        True,
        False,
    )
    checks = ("test_schema", "test_faketensor", "test_autograd_registration") + (
        ("test_aot_dispatch_static",) * CUDA
    )
    torch.library.opcheck(torch.ops.vlm_ssm.triton_scan.default, arguments, test_utils=checks)
    arguments = (leaf(1, 3, 1, 2), leaf(1, 2, 2), leaf(1, 2), None, None, None, None, None)
    torch.library.opcheck(torch.ops.vlm_ssm.triton_conv.default, arguments, test_utils=checks)
    arguments = (leaf(2, 3), leaf(2, 3), leaf(3), 1e-5, torch.float32)
    torch.library.opcheck(torch.ops.vlm_ssm.triton_add_norm.default, arguments, test_utils=checks)
