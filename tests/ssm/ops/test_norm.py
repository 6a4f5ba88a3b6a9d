"""`ops.add_rms_norm` on every backend against the formula in float64."""

import pytest
import torch
from cases import ALL, assert_near, gradients, sum_error
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_cases import both, exact, tensors

from vlm_ssm import ops


def terms_of_weight(case, eps=1e-5):
    """What the gradient of the weight sums up: (rows, width)."""
    double = {n: None if t is None else t.detach().double() for n, t in case.items()}
    rows = double["weight"].expand(double["residual"].shape).clone().requires_grad_()
    found = gradients(list(exact(**double | {"weight": rows}, eps=eps)), {"weight": rows})
    return found["grad weight"].flatten(0, -2)


@pytest.mark.parametrize("backend", ALL)
@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), max_size=2),
    rows=st.integers(1, 40),
    width=st.integers(1, 70),
    added=st.booleans(),
    scale=st.sampled_from([1.0, 1e-4, 1e4]),
)
def test_equals_the_formula(backend, shape, rows, width, added, scale):
    """Any number of leading dimensions, odd widths, rows over several tasks, with and without `out`."""
    torch.manual_seed(rows)
    case = tensors((*shape, rows, width), added, scale=scale)
    found, wanted = both(backend, case)
    assert sum_error(found.pop("grad weight"), wanted.pop("grad weight"), terms_of_weight(case)) <= 2e-6
    close = {n: 2e-6 if width > 1 or n in ("summed", "y") else 1e-3 for n in wanted}
    for name, limit in close.items():
        assert_near({name: found[name]}, {name: wanted[name]}, limit)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("added", [True, False])
def test_bf16_weights_and_output(backend, added):
    """y in the weight's dtype, the sum in fp32; gradients in the dtype of their tensor."""
    case = tensors((2, 9, 37), added, torch.bfloat16)
    found, wanted = both(backend, case)
    assert found["summed"].dtype == torch.float32
    assert found["y"].dtype == torch.bfloat16
    assert_near({"summed": found["summed"]}, {"summed": wanted["summed"]}, 1e-7)
    assert_near(found, wanted, 5e-3)
    assert all(found[f"grad {n}"].dtype == t.dtype for n, t in case.items() if t is not None)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("used", ["summed", "y"])
def test_gradient_of_one_output_alone(backend, used):
    """The other output may be left aside."""
    case = tensors((3, 5, 20), added=True)
    double = {n: t.detach().double().requires_grad_() for n, t in case.items()}
    index = ["summed", "y"].index(used)
    found = ops.add_rms_norm(**case, eps=1e-5, use=backend)[index].sin().sum()
    wanted = exact(**double, eps=1e-5)[index].sin().sum()
    names = ["residual", "out"] if used == "summed" else list(case)
    found = torch.autograd.grad(found, [case[n] for n in names])
    wanted = torch.autograd.grad(wanted, [double[n] for n in names])
    assert_near(dict(zip(names, found, strict=True)), dict(zip(names, wanted, strict=True)), 2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_turned_and_cut_tensors(backend):
    """Rows that don't lie together."""
    case = {n: t.detach() for n, t in tensors((4, 9, 21), added=True).items()}
    turned = {n: t.mT.contiguous().mT if t.ndim > 1 else t for n, t in case.items()}
    turned["weight"] = case["weight"].repeat_interleave(2)[::2]
    wanted = ops.add_rms_norm(**case, eps=1e-5, use=backend)
    found = ops.add_rms_norm(**turned, eps=1e-5, use=backend)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ALL)
def test_arguments_are_left_as_they_were(backend):
    case = {n: t.detach() for n, t in tensors((4, 9, 21), added=True).items()}
    before = {n: t.clone() for n, t in case.items()}
    ops.add_rms_norm(**case, eps=1e-5, use=backend)
    assert all(torch.equal(t, before[n]) for n, t in case.items())


@pytest.mark.parametrize("backend", ALL)
def test_nan_stays_in_its_row(backend):
    case = {n: t.detach() for n, t in tensors((40, 21), added=True).items()}
    case["out"][17, 3] = torch.nan
    _, y = ops.add_rms_norm(**case, eps=1e-5, use=backend)
    assert torch.equal(y.isnan().all(-1), torch.arange(40) == 17)
    assert y.isnan().sum() == 21


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("name", "shape"), [("weight", (5,)), ("out", (2, 1, 6)), ("out", (2, 9, 5))])
def test_misshapen_arguments_are_refused(backend, name, shape):
    """What doesn't fit raises; foreign memory is never read."""
    case = {n: t.detach() for n, t in tensors((2, 9, 6), added=True).items()} | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        ops.add_rms_norm(**case, eps=1e-5, use=backend)
