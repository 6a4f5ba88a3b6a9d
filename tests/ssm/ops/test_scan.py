"""Every backend of the selective scan against the definition in float64: outputs, states, every gradient."""

from typing import NamedTuple

import pytest
import torch
from cases import (
    ALL,
    FAST,
    OPTIONAL,
    assert_as_near,
    assert_near,
    errors,
    run_exact,
    run_scan,
    scan_inputs,
    segments_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ELEMENTS = 60_000  # of all states of one case: more only takes longer


class Case(NamedTuple):
    """What one scan is made of; small to print and to shrink."""

    batch: int
    length: int
    per_group: int
    groups: int
    state: int
    absent: frozenset[str]
    scale: float
    seed: int
    softplus: bool
    segments: str

    def build(self):
        """Arguments, softplus, segments."""
        width = self.per_group * self.groups
        sizes = (self.batch, self.length, width, self.state, self.groups)
        arguments = scan_inputs(*sizes, seed=self.seed, scale=self.scale, absent=self.absent)
        if not self.softplus:  # a step backwards in time grows without bounds
            for name in {"delta", "delta_bias"} - self.absent:
                arguments[name] = arguments[name].detach().abs().requires_grad_()
        return arguments, self.softplus, segments_of(self.segments, self.batch, self.length)


@st.composite
def cases(draw):
    length, state = draw(st.integers(1, 70)), draw(st.sampled_from([1, 3, 8, 16, 64, 128]))
    room = max(1, ELEMENTS // (length * state))
    groups = draw(st.integers(1, min(3, room)))
    per_group = draw(st.integers(1, max(1, min(40, room // groups))))
    batch = draw(st.integers(1, max(1, min(3, room // (groups * per_group)))))
    absent = draw(st.frozensets(st.sampled_from(OPTIONAL)))
    scale, seed = draw(st.sampled_from([1.0, 1e-3, 5.0])), draw(st.integers(0, 2**20))
    kind = draw(st.sampled_from(["none", "runs", "any"]))
    return Case(batch, length, per_group, groups, state, absent, scale, seed, draw(st.booleans()), kind)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_backends_equal_the_definition(case):
    """Outputs no worse than 2e-6, or than four times the error of the fp32 definition; see `assert_as_near`."""
    built = case.build()
    exact = run_exact(*built)
    reference = errors(run_scan("reference", *built), exact)
    for backend in FAST:
        assert_as_near(run_scan(backend, *built), exact, reference, 2e-6, backend)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("width", "state", "groups"), [(6, 8, 1), (20, 16, 2), (33, 1, 3)])
def test_precision_in_normal_conditions(backend, width, state, groups):
    """y within 3e-7, gradients within 2e-6."""
    case = scan_inputs(2, 90, width, state, groups)
    found = errors(run_scan(backend, case), run_exact(case))
    assert found["y"] <= 3e-7
    assert max(found.values()) <= 2e-6, found


@pytest.mark.parametrize("backend", ALL)
def test_bf16_in_and_out_with_fp32_inside(backend):
    """y rounds once, the state is not rounded, gradients come in the dtype of their tensor."""
    rough = scan_inputs(2, 50, 21, 8, dtype=torch.bfloat16)
    found, exact = run_scan(backend, rough), run_exact(rough)
    assert found["y"].dtype == torch.bfloat16
    assert found["last"].dtype == torch.float32
    assert found["grad u"].dtype == torch.bfloat16
    limits = {n: 4e-3 if t.dtype == torch.bfloat16 else 2e-6 for n, t in found.items()}
    limits |= dict.fromkeys([n for n in limits if n.startswith("grad")], 6e-3) | {"y": 3e-3}
    far = {n: e for n, e in errors(found, exact).items() if not e <= limits[n]}
    assert not far


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_compute_in_fp32(backend, dtype):
    """float16 and float64 are taken and given back; in between it is fp32."""
    case = scan_inputs(2, 40, 7, 8, dtype=dtype)
    found = run_scan(backend, case)
    assert found["y"].dtype == dtype
    assert found["last"].dtype == torch.float32
    assert_near(found, run_exact(case), 2e-3 if dtype == torch.float16 else 2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_everything_in_float64_computes_in_fp32(backend):
    """Also parameters and initial state in float64."""
    case = {n: t.detach().double().requires_grad_() for n, t in scan_inputs(2, 20, 7, 8).items()}
    found = run_scan(backend, case)
    assert found["grad A"].dtype == torch.float64
    assert_near(found, run_exact(case), 2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_autocast_does_not_reach_inside(backend):
    """Neither forward nor backward, even if the backward pass runs under autocast, too."""
    case = scan_inputs(2, 20, 18, 8)
    expected = run_scan(backend, case)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_scan(backend, case)
    assert all(found[name].dtype == t.dtype for name, t in expected.items())
    assert_near(found, expected, 1e-6)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "value"), [(1, 80.0), (40, 80.0), (40, 1e4), (40, -80.0), (40, -1e4)])
def test_extreme_steps_and_gates(backend, dtype, length, value):
    """Δ of ±80 and ±1e4 under the softplus, gates of ±1e4: finite, and what float64 says."""
    case = scan_inputs(1, length, 18, 8, dtype=dtype)
    with torch.no_grad():
        case["delta"][:, ::3], case["z"][:, 1::3], case["z"][:, 2::3] = value, 1e4, -1e4
    found = run_scan(backend, case)
    assert all(t.isfinite().all() for t in found.values())
    exact, rounding = run_exact(case), 2e-6 if dtype == torch.float32 else 6e-3
    assert_as_near(found, exact, errors(run_scan("reference", case), exact), rounding)


FORMS = {
    "one group": ((2, 5, 40), (2, 5, 40)), "fixed": ((18, 5), (18, 5)), "B fixed": ((18, 5), (2, 1, 5, 40)),
    "C fixed": ((2, 5, 40), (18, 5)),
}  # fmt: skip


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_matrices(backend, form):
    """B and C each as (E, S), the same at every position, or as (B, S, T), one group."""
    case, (b, c) = scan_inputs(2, 40, 18, 5), FORMS[form]
    case |= {"B": torch.randn(b, requires_grad=True), "C": torch.randn(c, requires_grad=True)}
    assert_near(run_scan(backend, case), run_exact(case), 5e-6)
