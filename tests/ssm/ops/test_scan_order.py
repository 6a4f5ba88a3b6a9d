"""`ops.scan` along several scan orders at once: every backend against the reference, and that against single scans."""

import itertools
import subprocess
import sys

import pytest
import torch
from cases import ALL, FAST, assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_order_cases import Case, run

from vlm_ssm import ops
from vlm_ssm.registration.inputs import ScanInputs

CASES = [Case(K, *rest) for K, *rest in itertools.product((1, 2, 4), *[(False, True)] * 4)]


@pytest.mark.parametrize("backend", FAST)
def test_every_combination_equals_the_reference(backend):
    """Number of directions, summed or apart, shared or own parameters, with and without gate and the optional ones."""
    for case in CASES:
        assert_near(run(backend, case), run("reference", case), 3e-6, str(case))


@settings(max_examples=20, deadline=None)
@given(
    case=st.builds(
        Case,
        K=st.integers(1, 4),
        keep_directions=st.booleans(),
        own=st.booleans(),
        gated=st.booleans(),
        optional=st.booleans(),
        length=st.integers(1, 70),
        width=st.integers(2, 35),
        groups=st.integers(1, 3),
        segmented=st.booleans(),
        seed=st.integers(0, 999),
    )
)
def test_any_shape_equals_the_reference(case):
    for backend in FAST:
        assert_near(run(backend, case), run("reference", case), 1e-5, backend)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("keep_directions", [False, True])
def test_directions_equal_single_scans(backend, keep_directions):
    """Walk, scan, put back, for each direction in turn; then the sum, and the gate last."""
    case = Case(3, keep_directions, own=True, gated=True)
    tensors, scan_order, _ = case.build()
    found, states = ops.scan(
        ScanInputs(**tensors, scan_order=scan_order, softplus=True, keep_directions=keep_directions),
        use=backend,
    )
    total = torch.zeros_like(found)
    for k, order in enumerate(scan_order):
        own = {n: t[k : k + 1] for n, t in tensors.items() if n != "z"}
        y, last = ops.scan(ScanInputs(**own, softplus=True), use="reference")
        total[:, order, k if keep_directions else 0] += y[:, :, 0]
        assert_near({"last": states[k]}, {"last": last[0]}, 1e-6)
    wanted = total * torch.nn.functional.silu(tensors["z"])
    assert_near({"y": found}, {"y": wanted}, 2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_bf16_sums_before_rounding(backend):
    """Directions add up in fp32; only the sum is rounded."""
    tensors, scan_order, _ = Case(4, keep_directions=False, own=False, gated=True).build()
    rough = {n: t.detach().bfloat16() if n in ("u", "dt", "z") else t.detach() for n, t in tensors.items()}
    exact = {n: t.float() for n, t in rough.items()}
    found, wanted = (
        ops.scan(ScanInputs(**a, scan_order=scan_order, softplus=True), use=use)[0]
        for a, use in ((rough, backend), (exact, "reference"))
    )
    assert found.dtype == torch.bfloat16
    assert_near({"y": found}, {"y": wanted}, 3e-3)


@pytest.mark.parametrize("backend", ALL)
def test_scan_orders_transposed_in_memory(backend):
    tensors, scan_order, _ = Case(3, keep_directions=False, own=False, gated=True).build()
    transposed = scan_order.T.contiguous().T
    found, wanted = (
        ops.scan(ScanInputs(**tensors, scan_order=r, softplus=True), use=backend)[0]
        for r in (transposed, scan_order)
    )
    assert_near({"y": found}, {"y": wanted}, 1e-6)
    x, weight = torch.randn(2, 37, 1, 18), torch.randn(1, 18, 4)
    found, wanted = (ops.conv(x, weight, scan_order=r, use=backend) for r in (transposed, scan_order))
    assert_near({"y": found}, {"y": wanted}, 1e-6)


SHORT_NUMBERS = """
import torch
from vlm_ssm import ops
from vlm_ssm.registration.inputs import ScanInputs
torch.manual_seed(0)
u, A, B = torch.randn(2, 1, 37, 18), -torch.rand(1, 18, 3), torch.randn(2, 1, 37, 1, 3)
order = torch.stack([torch.randperm(37), torch.arange(37)])
short = ops.scan(ScanInputs(u, u.abs(), A, B, B, scan_order=order.int()), use="numba")[0]
torch.testing.assert_close(short, ops.scan(ScanInputs(u, u.abs(), A, B, B, scan_order=order), use="numba")[0])
"""


def test_scan_orders_as_short_numbers():
    """32-bit scan orders are rows, too. In a process of its own: misread, they would be written to anywhere."""
    command = [sys.executable, "-c", SHORT_NUMBERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-500:]}"
