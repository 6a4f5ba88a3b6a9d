"""Every backend of the selective scan against the definition: outputs, states and every gradient."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_core.errors import UserError
from vlm_core.ssm import BACKENDS, selective_scan
from vlm_core.ssm.chunked import _forward

FAST = [name for name in BACKENDS if name != "reference"]


def inputs(batch, length, width, state, groups, seed=0, dtype=torch.float32, scale=1.0):
    """Random arguments of `selective_scan` by name, all requiring gradients."""
    torch.manual_seed(seed)
    shapes = {
        "u": (batch, width, length), "delta": (batch, width, length), "A": (width, state),
        "B": (batch, groups, state, length), "C": (batch, groups, state, length), "D": (width,),
        "z": (batch, width, length), "delta_bias": (width,), "initial_state": (batch, width, state),
    }  # fmt: skip
    tensors = {name: torch.randn(shape) * scale for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].exp()
    keep_fp32 = ("A", "D", "delta_bias", "initial_state")
    return {n: t.to(t.dtype if n in keep_fp32 else dtype).requires_grad_() for n, t in tensors.items()}


def run(backend, arguments, segments=None):
    """Output, last state and the gradients of a function that uses both, from one backend."""
    y, last = selective_scan(
        **arguments, delta_softplus=True, segments=segments, return_last_state=True, backend=backend
    )
    loss = (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + last.sin().sum()
    used = [t for t in arguments.values() if t is not None]
    return [y, last, *torch.autograd.grad(loss, used)]


def error(found, expected):
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3), length=st.integers(1, 70), per_group=st.integers(1, 5),
    state=st.sampled_from([1, 3, 8, 16]), groups=st.integers(1, 3), segmented=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 5.0]),
)  # fmt: skip
def test_backend_equals_definition(backend, batch, length, per_group, state, groups, segmented, scale):
    arguments = inputs(batch, length, per_group * groups, state, groups, seed=length, scale=scale)
    segments = torch.randint(0, 3, (batch, length)).sort(1).values if segmented else None
    expected = run("reference", arguments, segments)
    for found, wanted in zip(run(backend, arguments, segments), expected, strict=True):
        assert found.shape == wanted.shape
        assert error(found, wanted) < 2e-5


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_fp32_against_float64(backend):
    """The recurrence in double precision, written once more without any of the library's helpers."""
    a = {name: t.detach() for name, t in inputs(2, 90, 6, 8, 1).items()}
    d = {name: t.double() for name, t in a.items()}
    dt = torch.nn.functional.softplus(d["delta"] + d["delta_bias"][:, None])
    h, ys = d["initial_state"], []
    for t in range(90):
        h = torch.exp(dt[:, :, t, None] * d["A"]) * h
        h = h + (dt * d["u"])[:, :, t, None] * d["B"][:, :, :, t]
        ys.append((h * d["C"][:, :, :, t]).sum(-1))
    expected = (torch.stack(ys, -1) + d["u"] * d["D"][:, None]) * torch.nn.functional.silu(d["z"])
    found = selective_scan(**a, delta_softplus=True, backend=backend)
    assert error(found, expected) < 3e-7


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_bf16_in_and_out_with_fp32_inside(backend):
    rough = inputs(2, 50, 6, 8, 1, dtype=torch.bfloat16)
    exact = {name: t.detach().float() for name, t in rough.items()}
    y, last = selective_scan(**rough, delta_softplus=True, return_last_state=True, backend=backend)
    wanted, state = selective_scan(**exact, delta_softplus=True, return_last_state=True, backend=backend)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    assert error(y, wanted) < 3e-3
    assert error(last, state) < 1e-6


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_autocast_does_not_reach_inside(backend):
    arguments = inputs(2, 20, 6, 8, 1)
    expected = run(backend, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(backend, arguments)
    assert all(error(a, b) < 1e-6 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("cut", [1, 7, 39])
def test_pieces_equal_whole(backend, cut):
    a = {name: t.detach() for name, t in inputs(2, 40, 6, 8, 2).items()}
    a["delta"] = a["delta"].abs()
    whole, last = selective_scan(**a, return_last_state=True, backend=backend)
    timed = ("u", "delta", "B", "C", "z")
    first = {n: t[..., :cut] if n in timed else t for n, t in a.items()}
    y1, state = selective_scan(**first, return_last_state=True, backend=backend)
    second = {n: t[..., cut:] if n in timed else t for n, t in a.items()} | {"initial_state": state}
    y2, end = selective_scan(**second, return_last_state=True, backend=backend)
    torch.testing.assert_close(torch.cat([y1, y2], -1), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_segments_equal_separate_scans(backend):
    a = {name: t.detach() for name, t in inputs(1, 12, 4, 4, 1).items()} | {"initial_state": None}
    segments = torch.tensor([[5, 5, 5, 2, 2, 2, 2, 9, 9, 9, 9, 9]])
    packed = selective_scan(**a, segments=segments, backend=backend)
    timed = ("u", "delta", "B", "C", "z")
    for start, end in ((0, 3), (3, 7), (7, 12)):
        own = {n: t[..., start:end] if n in timed else t for n, t in a.items()}
        torch.testing.assert_close(packed[..., start:end], selective_scan(**own, backend=backend))


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_nan_stays_visible(backend):
    a = {name: t.detach().clone() for name, t in inputs(1, 9, 2, 4, 1).items()}
    a["u"][0, 1, 4] = torch.nan
    y = selective_scan(**a, backend=backend)
    assert y[0, 1, 4:].isnan().all()
    assert y[0, 0].isfinite().all()
    assert y[0, 1, :4].isfinite().all()


def test_fixed_and_ungrouped_matrices_mean_what_mamba_ssm_says():
    a = {name: t.detach() for name, t in inputs(2, 9, 4, 3, 1).items()}
    grouped = selective_scan(**a)
    torch.testing.assert_close(selective_scan(**(a | {"B": a["B"][:, 0], "C": a["C"][:, 0]})), grouped)
    fixed = torch.randn(4, 3)
    spread = fixed[None, :, :, None].expand(2, 4, 3, 9)  # one group a channel
    torch.testing.assert_close(selective_scan(**(a | {"B": fixed})), selective_scan(**(a | {"B": spread})))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_registered_with_torch():
    """The op works under autograd, fake tensors and ahead-of-time dispatch."""
    u, dt = torch.randn(2, 9, 4), torch.rand(2, 9, 4)
    b, c = torch.randn(2, 9, 1, 3), torch.randn(2, 9, 1, 3)
    arguments = [u, dt, -torch.rand(4, 3), b, c, torch.randn(2, 4, 3)]
    arguments = [t.requires_grad_() for t in arguments]
    warnings.filterwarnings(
        "ignore", message="The .grad attribute of a Tensor that is not a leaf"
    )  # opcheck's own
    torch.library.opcheck(_forward, (*arguments, torch.ones(2, 9)))
    torch.library.opcheck(_forward, (*arguments, None))


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="T = 0"):
        selective_scan(**{n: t.detach() for n, t in inputs(1, 0, 2, 2, 1).items()})
    with pytest.raises(UserError, match=r"'refrence'.*did you mean 'reference'"):
        run("refrence", inputs(1, 3, 2, 2, 1))
    monkeypatch.setenv("VLM_SCAN_BACKEND", "none")
    with pytest.raises(UserError, match="possible: reference, torch"):
        run(None, inputs(1, 3, 2, 2, 1))
