"""`ops.conv` on every backend against torch's convolution and a plain loop in float64."""

import pytest
import torch
import torch.nn.functional as F
from cases import ALL, assert_near, gradients, sum_error
from conv_cases import Case, both, exact, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_core.interfaces import PADDING
from vlm_ssm import boundaries_of, ops
from vlm_ssm.torch.ops import after


@st.composite
def cases(draw):
    K = draw(st.integers(0, 3))
    return Case(
        draw(st.integers(1, 3)),
        draw(st.integers(1, 140)),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 5)),
        draw(st.booleans()),
        draw(st.booleans()) and not K,
        draw(st.booleans()) and not K,
        K,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 999)),
    )


def terms(tensors, segments, scan_order):
    """What the gradients of weight and bias sum up, by name: (terms, P, …)."""
    double = {n: None if t is None else t.detach().double() for n, t in tensors.items()}
    own = {
        n: rows_of(double[n], double["x"], scan_order).clone().requires_grad_()
        for n in ("weight", "bias")
        if double[n] is not None
    }
    found = gradients([exact(**double | own, segments=segments, scan_order=scan_order)], own)
    shared = len(double["weight"]) == 1
    return {
        n: g.flatten(0, 2).unsqueeze(1) if shared else g.flatten(1, 2).transpose(0, 1)
        for n, g in found.items()
    }


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_fast_backends_equal_the_windows(case):
    """Outputs and gradients; lengths over the kernel's tasks of 64 rows, widths over its 16 lanes."""
    arguments = case.build()
    summed = terms(*arguments)
    for backend in ("torch", "numba"):
        found, wanted = both(backend, *arguments)
        for name, t in summed.items():
            assert sum_error(found.pop(name), wanted.pop(name), t) <= 1e-5, (backend, name)
        for name, t in wanted.items():
            assert_near({name: found[name]}, {name: t}, 5e-5 if t.numel() < 32 else 2e-6, backend)


@pytest.mark.parametrize("case", [
    Case(2, 9, 5, 4), Case(2, 9, 5, 4, state=True, segmented=True), Case(1, 3, 2, 5, state=True),
    Case(2, 7, 3, 3, K=3), Case(2, 7, 3, 3, K=2, own_rows=True, own_weights=True), Case(1, 4, 2, 1, bias=False),
])  # fmt: skip
def test_the_reference_equals_the_windows(case):
    """The same for the slow loop, in a few cases."""
    assert_near(*both("reference", *case.build()), 2e-6)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_equals_torch(backend, taps):
    """F.conv1d and SiLU in float64."""
    x, weight, bias = torch.randn(2, 21, 6), torch.randn(6, taps), torch.randn(6)
    padded = F.pad(x.double().transpose(1, 2), (taps - 1, 0))
    wanted = F.silu(F.conv1d(padded, weight.double().unsqueeze(1), bias.double(), groups=6))
    y = ops.conv(x.unsqueeze(2), weight[None], bias[None], use=backend)
    assert_near({"y": y[0]}, {"y": wanted.transpose(1, 2)}, 3e-7)
    past = after(x, None, None, taps - 1)
    assert torch.equal(past, x[:, 22 - taps :])


@pytest.mark.parametrize("backend", ALL)
def test_bf16(backend):
    """Rounded at the end; in plain torch at each step, and so are autograd's sums."""
    found, wanted = both(backend, *Case(2, 12, 21, 4, state=True).build(torch.bfloat16))
    assert all(t.dtype == torch.bfloat16 for t in found.values())
    assert_near(found, wanted, 5e-3 if backend == "numba" else 4e-2)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(backend, dtype):
    found, wanted = both(backend, *Case(2, 12, 5, 4, state=True).build(dtype))
    assert found["y"].dtype == dtype
    assert_near(found, wanted, 5e-3 if dtype == torch.float16 else 2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_parts_of_wider_rows(backend):
    """The layer hands over one half of `in_proj`'s output, turned tensors are taken, too."""
    tensors, _, _ = Case(2, 30, 18, 4, state=True).build()
    wide = torch.cat([tensors["x"], tensors["x"].exp()], -1).detach()[..., :18].requires_grad_()
    turned = tensors["x"].detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()
    for x in (wide, turned):
        assert_near(*both(backend, tensors | {"x": x}, None, None), 2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_nan_stays_in_its_windows(backend):
    x = torch.randn(2, 90, 1, 20)
    x[1, 60, 0, 17] = torch.nan
    y = ops.conv(x, torch.randn(1, 20, 4), use=backend)[0]
    bad = torch.zeros_like(y, dtype=torch.bool)
    bad[1, 60:64, 17] = True
    assert torch.equal(y.isnan(), bad)


@pytest.mark.parametrize("backend", ALL)
def test_window_stays_in_its_segment(backend):
    x, weight = torch.randn(1, 9, 1, 2), torch.randn(1, 2, 4)
    boundaries = boundaries_of(torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2]]))
    y = ops.conv(x, weight, boundaries=boundaries, use=backend)
    for start, end in ((0, 4), (4, 6), (6, 9)):
        torch.testing.assert_close(y[:, :, start:end], ops.conv(x[:, start:end], weight, use=backend))
    assert torch.equal(after(x[:, :, 0], None, boundaries, 3), x[:, 6:, 0])


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_state_waits_behind_padding(backend, cut):
    """Padding in front of a later piece does not separate it from what came before."""
    x, weight = torch.randn(1, 8, 1, 2), torch.randn(1, 2, 4)
    whole, end = ops.conv(x, weight, use=backend), after(x[:, :, 0], None, None, 3)
    state = after(x[:, :cut, 0], None, None, 3)
    padded = torch.cat([torch.randn(1, 2, 1, 2), x[:, cut:]], dim=1)
    boundaries = boundaries_of(torch.tensor([[PADDING, PADDING] + [0] * (8 - cut)]))
    y = ops.conv(padded, weight, None, state, boundaries, use=backend)
    torch.testing.assert_close(y[:, :, 2:], whole[:, :, cut:])
    assert torch.equal(y[:, :, :2], torch.zeros(1, 1, 2, 2))
    torch.testing.assert_close(after(padded[:, :, 0], state, boundaries, 3), end)


def test_short_segment_leaves_no_foreign_state():
    x = torch.randn(1, 5, 2)
    state = after(x, None, boundaries_of(torch.tensor([[0, 0, 0, 0, 1]])), 3)
    assert torch.equal(state[:, :2], torch.zeros(1, 2, 2))
    assert torch.equal(state[:, 2], x[:, 4])


def test_only_padding_leaves_the_state_alone():
    """Also where a piece is shorter than the window."""
    state = torch.randn(1, 3, 2)
    for length in (1, 2, 7):
        boundaries = boundaries_of(torch.full((1, length), PADDING))
        assert torch.equal(after(torch.randn(1, length, 2), state, boundaries, 3), state)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("name", "shape"), [
    ("weight", (1, 4, 4)), ("bias", (1, 5)), ("state", (2, 2, 6)), ("state", (1, 3, 5)),
])  # fmt: skip
def test_misshapen_arguments_are_refused(backend, name, shape):
    """A size that doesn't fit raises; memory that isn't the tensor's is never read."""
    tensors = {"x": torch.randn(2, 9, 1, 6), "weight": torch.randn(1, 6, 4)} | {name: torch.zeros(shape)}
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        ops.conv(**tensors, use=backend)
