"""RMSNorm and LayerNorm of a sum on the CUDA kernels, against float64."""

import pytest
import torch
from cases import assert_near, gradients, sum_error
from cuda_here import BF16, FP16, FP32, ROUNDING, compiled, no_triton, on_the_gpu
from norm_cases import both as both_norms
from norm_cases import exact as exact_norm
from norm_cases import tensors as norm_tensors

from vlm_ssm import ops
from vlm_ssm.cuda.norms import layer_norm

__all__ = ["compiled", "no_triton", "on_the_gpu"]

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
