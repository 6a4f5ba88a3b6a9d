"""bf16 on a CPU without bf16: the same products, made in fp32 and rounded once; nothing else changes."""

import pytest
import torch
import torch.nn.functional as F

from vlm_core.model_folder.assemble import build
from vlm_core.numerics import low_precision_matmul
from vlm_core.numerics.low_precision_matmul import ROWS, upcast_matmul
from vlm_core.spec.spec import Spec


@pytest.fixture
def old_cpu(monkeypatch):
    """A CPU that has instructions for fp32 alone, whatever this one has."""
    monkeypatch.setattr(low_precision_matmul, "native", lambda dtype: dtype == torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_rows_are_multiplied_in_fp32(old_cpu, dtype):
    x, w, b = (
        torch.randn(2, ROWS, 48, dtype=dtype),
        torch.randn(24, 48, dtype=dtype),
        torch.randn(24, dtype=dtype),
    )
    exact = F.linear(x.float(), w.float(), b.float()).to(dtype)
    with upcast_matmul(x):
        assert torch.equal(F.linear(x, w, b), exact)
        assert torch.equal(x @ w.T, (x.float() @ w.float().T).to(dtype))
        assert torch.equal(x + x, 2 * x)
        buffer = torch.empty(ROWS, 24, dtype=dtype)
        assert torch.mm(x[0], w.T, out=buffer) is buffer
        assert torch.equal(buffer, (x[0].float() @ w.float().T).to(dtype))


def test_few_rows_and_fp32_are_left_alone(old_cpu, monkeypatch):
    monkeypatch.setattr(low_precision_matmul, "tree_map", lambda *_: pytest.fail("converted"))
    x = torch.randn(ROWS - 1, 8, dtype=torch.bfloat16)
    with upcast_matmul(x):
        F.linear(x, x)
    x = torch.randn(ROWS, 8)
    with upcast_matmul(x):
        F.linear(x, x)


def test_gradients_pass(old_cpu):
    x, w = torch.randn(ROWS, 8).bfloat16().requires_grad_(), torch.randn(4, 8).bfloat16().requires_grad_()
    with upcast_matmul(x):
        F.linear(x, w).sum().backward()
    assert x.grad.dtype == w.grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        w.grad, x.detach().float().sum(0).bfloat16().expand(4, -1), atol=0.1, rtol=0.02
    )


def test_a_whole_model_uses_them(tiny_spec, old_cpu, monkeypatch):
    spec = Spec.model_validate(tiny_spec)
    model, exact = build(spec, dtype=torch.bfloat16), build(spec)
    seen, linear = [], low_precision_matmul._linear
    monkeypatch.setattr(low_precision_matmul, "_linear", lambda *args: seen.append(1) or linear(*args))
    ids = torch.arange(ROWS)[None]
    with torch.no_grad():
        hidden = model.forward_embeds(model.embed(ids))[0]
        after_text = len(seen)
        model.encode_images(torch.rand(ROWS, 3, 32, 32))
    assert 0 < after_text < len(seen), "both the language model and the picture's way"
    with torch.no_grad():
        expected = exact.forward_embeds(exact.embed(ids))[0]
    assert torch.cosine_similarity(hidden.float().flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(("bf16", "fp16"), [(True, False), (False, True)])
def test_a_cpu_is_asked_for_each_dtype(monkeypatch, bf16, fp16):
    native = low_precision_matmul.native.__wrapped__
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: fp16)
    assert (native(torch.bfloat16), native(torch.float16), native(torch.float32)) == (bf16, fp16, True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert native(torch.bfloat16) is native(torch.float16) is True, "assumed"
