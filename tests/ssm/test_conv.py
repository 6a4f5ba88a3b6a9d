"""`ops.conv` on every backend against torch's convolution and a plain loop in float64."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from cases import ALL, assert_near, gradients, sum_error
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_core.interfaces import PADDING
from vlm_ssm import boundaries_of, ops
from vlm_ssm.torch.ops import after


class Case(NamedTuple):
    """What one convolution is made of; `front` and `runs` are about segments, `K` of 0 is without scan orders."""

    batch: int
    length: int
    width: int
    taps: int
    bias: bool = True
    state: bool = False
    segmented: bool = False
    K: int = 0
    own_rows: bool = False
    own_weights: bool = False
    seed: int = 0

    def build(self, dtype=torch.float32):
        """Tensors by name, segment numbers, scan orders."""
        torch.manual_seed(self.seed)
        J = max(1, self.K) if self.own_rows else 1
        P = max(1, self.K) if self.own_weights else 1
        tensors = {
            "x": torch.randn(self.batch, self.length, J, self.width).to(dtype),
            "weight": torch.randn(P, self.width, self.taps).to(dtype),
            "bias": torch.randn(P, self.width).to(dtype) if self.bias else None,
            "state": torch.randn(self.batch, self.taps - 1, self.width).to(dtype) if self.state else None,
        }
        scan_order = torch.stack([torch.randperm(self.length) for _ in range(self.K)]) if self.K else None
        given = {n: None if t is None else t.requires_grad_() for n, t in tensors.items()}
        return given, self.segments() if self.segmented else None, scan_order

    def segments(self):
        """Runs of up to three numbers, behind any amount of padding."""
        numbers = torch.randint(0, 3, (self.batch, self.length)).sort(1).values
        front = torch.randint(0, self.length + 1, (self.batch, 1))
        return torch.where(torch.arange(self.length) < front, PADDING, numbers)


@st.composite
def cases(draw):
    K = draw(st.integers(0, 3))
    return Case(
        draw(st.integers(1, 3)), draw(st.integers(1, 140)), draw(st.integers(1, 40)), draw(st.integers(1, 5)),
        draw(st.booleans()), draw(st.booleans()) and not K, draw(st.booleans()) and not K, K,
        draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 999)),
    )  # fmt: skip


def rows_of(parameter, x, scan_order):
    """A parameter (P, …) repeated for every row of every direction: (K, B, T, …)."""
    directions = x.shape[2] if scan_order is None else len(scan_order)
    return parameter[:, None, None].expand(directions, len(x), x.shape[1], *parameter.shape[1:])


def exact(x, weight, bias, state, segments, scan_order):
    """Window after window; a new segment begins with an empty one. Parameters are those of each row."""
    past, directions = weight.shape[-1] - 1, len(weight)
    outs = []
    for k in range(directions):
        column = k if x.shape[2] > 1 else 0
        rows = x[:, :, column] if scan_order is None else x[:, scan_order[k], column]
        for n, own in enumerate(rows.unbind(0)):
            empty = own.new_zeros(past, own.shape[1])
            window = empty if state is None else state[n]
            numbers = [0] * len(own) if segments is None else segments[n].tolist()
            outs.append(walk(own, numbers, window, empty, weight[k, n], None if bias is None else bias[k, n]))
    return torch.stack(outs).unflatten(0, (directions, len(x)))


def walk(rows, numbers, window, empty, weight, bias):
    """One sequence (T, E)."""
    latest, ys = None, []
    for t, (row, number) in enumerate(zip(rows.unbind(0), numbers, strict=True)):
        if number == PADDING:
            ys.append(torch.zeros_like(row))
            continue
        if latest is not None and number != latest:
            window = empty
        latest, seen = number, torch.cat([window, row[None]])
        window, y = seen[1:], (seen * weight[t].T).sum(0)
        ys.append(F.silu(y if bias is None else y + bias[t]))
    return torch.stack(ys)


def both(backend, tensors, segments, scan_order):
    """Outputs and gradients of a backend, and what they should be."""
    double = {n: None if t is None else t.detach().double().requires_grad_() for n, t in tensors.items()}
    boundaries = None if segments is None else boundaries_of(segments)
    y = ops.conv(**tensors, boundaries=boundaries, scan_order=scan_order, use=backend)
    own = {
        n: rows_of(double[n], double["x"], scan_order) for n in ("weight", "bias") if double[n] is not None
    }
    wanted = exact(**double | own, segments=segments, scan_order=scan_order)
    used = {n: t for n, t in tensors.items() if t is not None and t.numel()}
    return (
        {"y": y} | gradients([y], used),
        {"y": wanted} | gradients([wanted], {n: double[n] for n in used}),
    )


def terms(tensors, segments, scan_order):
    """What the gradients of weight and bias sum up, by name: (terms, P, …)."""
    double = {n: None if t is None else t.detach().double() for n, t in tensors.items()}
    own = {n: rows_of(double[n], double["x"], scan_order).clone().requires_grad_() for n in ("weight", "bias")
           if double[n] is not None}  # fmt: skip
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
