"""`norm_of_sum`: one kernel for a plain LayerNorm where the backend has one, else the module is called."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vlm_ssm.layers import layer_norm
from vlm_ssm.layers.layer_norm import norm_of_sum


@pytest.fixture
def fused(monkeypatch):
    """A backend with a kernel; the dtypes it was asked for."""
    asked = []

    def add_layer_norm(x, skip, weight, bias, eps, dtype):
        asked.append(dtype)
        return F.layer_norm((x + skip).float(), x.shape[-1:], weight, bias, eps).to(dtype)

    monkeypatch.setattr(layer_norm, "backend", lambda _: SimpleNamespace(add_layer_norm=add_layer_norm))
    return asked


def rows(dtype=torch.float32):
    return torch.randn(2, 3, 8).to(dtype), torch.randn(2, 3, 8).to(dtype)


def test_equals_the_module():
    norm, (x, skip) = nn.LayerNorm(8), rows()
    torch.testing.assert_close(norm_of_sum(norm, x, skip), norm(x + skip), rtol=0, atol=0)


def test_a_plain_norm_is_one_kernel(fused):
    norm, (x, skip) = nn.LayerNorm(8), rows()
    torch.testing.assert_close(norm_of_sum(norm, x, skip), norm(x + skip))
    assert fused == [torch.float32]


def test_under_autocast_the_output_is_what_a_linear_layer_would_read(fused):
    norm, (x, skip) = nn.LayerNorm(8), rows(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm_of_sum(norm, x, skip).dtype == torch.bfloat16
    assert fused == [torch.bfloat16]


@pytest.mark.parametrize(
    "norm",
    [
        nn.RMSNorm(8),
        nn.LayerNorm(8, bias=False),
        nn.LayerNorm((3, 8)),
        nn.LayerNorm(8, elementwise_affine=False),
    ],
)
def test_other_norms_are_called(norm, fused):
    x, skip = rows()
    torch.testing.assert_close(norm_of_sum(norm, x, skip), norm(x + skip), rtol=0, atol=0)
    assert not fused


def test_a_hooked_norm_is_called(fused):
    norm, (x, skip), calls = nn.LayerNorm(8), rows(), []
    norm.register_forward_hook(lambda *_: calls.append(1))
    norm_of_sum(norm, x, skip)
    assert calls
    assert not fused


def test_rows_that_the_kernel_does_not_take(monkeypatch):
    """Then it returns nothing, and the module is called."""
    empty = SimpleNamespace(add_layer_norm=lambda *_: None)
    monkeypatch.setattr(layer_norm, "backend", lambda _: empty)
    norm, (x, skip) = nn.LayerNorm(8), rows()
    torch.testing.assert_close(norm_of_sum(norm, x, skip), norm(x + skip))
