"""`vlm_ssm.linear`, a product of few rows: equal to torch's in outputs, gradients, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from vlm_ssm import linear
from vlm_ssm.layers import decode


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("rows", [1, 5, 32, 37])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, decode.MOST_ROWS, decode.MOST_ROWS + 1])
def test_linear_equals_torch(dtype, limit, rows, batch):
    """Every width from 1 to 130 ends somewhere in the kernel's loops."""
    for width in [*range(1, 40), 63, 64, 65, 95, 127, 128, 129, 130, 256, 300]:
        x, weight = torch.randn(batch, 1, width).to(dtype), torch.randn(rows, width).to(dtype)
        with torch.no_grad():
            y = linear(x, weight)
            if batch <= decode.MOST_ROWS:
                assert torch.equal(y, torch.cat([linear(row, weight) for row in x.split(1)]))
        wanted = F.linear(x.double(), weight.double())
        bound = (x.double().norm() * weight.double().norm()).item()  # rows may cancel
        assert y.shape == wanted.shape
        assert y.dtype == dtype
        assert float((y.double() - wanted).norm()) <= max(limit * float(wanted.norm()), 1e-7 * bound)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 1, 8), (3, 8), (2, 1, 8), (0, 8)])
def test_linear_of_any_leading_dimensions(shape):
    x, weight = torch.randn(shape), torch.randn(37, 8)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
        turned = torch.randn(8, 37).T
        torch.testing.assert_close(linear(x, turned), F.linear(x, turned))


def test_linear_refuses_what_torch_refuses():
    """A matrix of another width."""
    for weight in (torch.randn(37, 16), torch.randn(37, 4), torch.randn(37)):
        with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
            linear(torch.randn(1, 1, 8), weight)


def test_linear_keeps_gradients():
    x, weight = torch.randn(1, 1, 8), torch.randn(37, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x[0].expand(37, 8))
