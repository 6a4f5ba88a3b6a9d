"""The scan on the CUDA kernels, against the definition in float64 and against Triton's."""

import pytest
import torch
from cases import assert_as_near, assert_near, errors, run_exact, run_scan, scan_inputs
from cuda_here import BF16, FP16, FP32, HALVES, compiled, marks, near, no_triton, on_the_gpu

from vlm_ssm import selective_scan
from vlm_ssm.cuda import scan_backward, scan_forward
from vlm_ssm.cuda.scan_inputs import TILE

__all__ = ["compiled", "no_triton", "on_the_gpu"]

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


@pytest.mark.parametrize(("states", "dtype"), [(16, torch.bfloat16), (64, torch.float32)], ids=str)
def test_the_same_bits_every_time(states, dtype):
    case = scan_inputs(2, 700, 512, states, dtype=dtype)
    first, second = (run_scan("cuda", case) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)
