"""The loss without a whole tensor of logits against F.cross_entropy of one: value, gradients, memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vlm_core.model_folder.assemble import build
from vlm_core.numerics import linear_cross_entropy as module
from vlm_core.numerics.linear_cross_entropy import chunks_logits, linear_cross_entropy, summed_cross_entropy
from vlm_core.spec.spec import Spec

TOKENS, VOCAB, DIM = 37, 53, 8


def inputs(dtype=torch.float32, bias=True):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, offset = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((TOKENS, DIM), (VOCAB, DIM), (VOCAB,))
    )
    labels = torch.randint(VOCAB, (TOKENS,), generator=generator)
    return [t.requires_grad_() for t in (hidden, weight, *([offset] if bias else []))], labels


def whole(hidden, weight, bias, labels):
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, reduction="sum")


def compared(tensors, labels, chunk, autocast=False):
    """(loss, gradients) of the whole and of the chunked computation; the loss has a factor, as in training."""
    ends = []
    for function in (whole, lambda *args: linear_cross_entropy(*args, chunk=chunk)):
        bias = tensors[2] if len(tensors) > 2 else None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = function(tensors[0], tensors[1], bias, labels)
        trained = [t for t in tensors if t.requires_grad]
        ends.append((loss.detach(), torch.autograd.grad(loss / 7, trained)))
    return ends


@pytest.mark.parametrize("chunk", [1, 5 * VOCAB, 36 * VOCAB, 10**6])
@pytest.mark.parametrize("bias", [True, False])
def test_fp32_is_equal_to_rounding(chunk, bias):
    tensors, labels = inputs(bias=bias)
    (loss, grads), (own, own_grads) = compared(tensors, labels, chunk)
    torch.testing.assert_close(own, loss, rtol=1e-6, atol=0)
    for grad, own_grad in zip(grads, own_grads, strict=True):
        torch.testing.assert_close(own_grad, grad, rtol=2e-5, atol=1e-6)


def test_fp64_agrees_with_finite_differences():
    tensors, labels = inputs()
    hidden, weight, bias = (t.detach()[:6].requires_grad_() for t in tensors)
    loss = linear_cross_entropy(hidden, weight, bias, labels[:6] % 6, chunk=12)
    grads = torch.autograd.grad(loss, (hidden, weight, bias))
    doubles = [t.detach().double() for t in (hidden, weight, bias)]
    for i, grad in enumerate(grads):
        step = torch.zeros_like(doubles[i])
        step.view(-1)[3] = 1e-5
        plus, minus = (
            F.cross_entropy(
                F.linear(*(t + s * step if j == i else t for j, t in enumerate(doubles))),
                labels[:6] % 6,
                reduction="sum",
            )
            for s in (1, -1)
        )
        assert ((plus - minus) / 2e-5).item() == pytest.approx(grad.view(-1)[3].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_gets_no_gradient(frozen):
    tensors, labels = inputs()
    tensors[frozen].requires_grad_(False)
    (_, grads), (_, own) = compared(tensors, labels, 5 * VOCAB)
    assert len(own) == 2
    for grad, own_grad in zip(grads, own, strict=True):
        torch.testing.assert_close(own_grad, grad, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_no_error_is_larger_than_that_of_whole_logits(dtype):
    """fp32 weights and hidden states in either dtype; the reference is fp32."""
    tensors, labels = inputs(bias=False)
    tensors[0] = tensors[0].detach().to(dtype).requires_grad_()
    exact = [t.detach().float().requires_grad_() for t in tensors]
    true = whole(*exact, None, labels)
    true_grads = torch.autograd.grad(true / 7, exact)
    (loss, grads), (own, own_grads) = compared(tensors, labels, 9 * VOCAB, autocast=True)
    torch.testing.assert_close(own, loss, rtol=1e-6, atol=0)  # logits are the same
    for grad, own_grad, exact_grad, tensor in zip(grads, own_grads, true_grads, tensors, strict=True):
        assert own_grad.dtype == tensor.dtype

        def error(g, exact_grad=exact_grad):
            return float((g.float() - exact_grad).norm() / exact_grad.norm())

        assert error(own_grad) < max(1.1 * error(grad), 2**-8)


def test_bf16_weights_compute_in_bf16():
    tensors, labels = inputs(torch.bfloat16)
    (loss, grads), (own, own_grads) = compared(tensors, labels, 9 * VOCAB)
    torch.testing.assert_close(own, loss, rtol=1e-6, atol=0)
    for grad, own_grad in zip(grads, own_grads, strict=True):
        assert own_grad.dtype == torch.bfloat16
        torch.testing.assert_close(own_grad, grad, rtol=0.05, atol=0.02)


def test_no_tokens_are_a_loss_of_zero_with_gradients_of_zero():
    tensors, labels = inputs()
    loss = linear_cross_entropy(tensors[0][:0], *tensors[1:], labels[:0], chunk=VOCAB)
    assert loss.item() == 0
    grads = torch.autograd.grad(loss, tensors)
    assert all(grad.abs().sum().item() == 0 for grad in grads)


def test_logits_of_any_size_are_finite():
    tensors, labels = inputs()
    large = [tensors[0] * 1e4, *tensors[1:]]
    (loss, grads), (own, own_grads) = compared(
        [large[0].detach().requires_grad_(), *large[1:]], labels, 9 * VOCAB
    )
    torch.testing.assert_close(own, loss, rtol=1e-6, atol=0)
    assert all(g.isfinite().all() for g in own_grads)
    for grad, own_grad in zip(grads, own_grads, strict=True):
        torch.testing.assert_close(own_grad, grad, rtol=2e-5, atol=1e-3)


def test_nan_stays_nan():
    tensors, labels = inputs()
    hidden = tensors[0].detach().clone()
    hidden[3, 2] = float("nan")
    loss = linear_cross_entropy(hidden.requires_grad_(), *tensors[1:], labels, chunk=9 * VOCAB)
    assert loss.isnan()
    assert torch.autograd.grad(loss, tensors[1])[0].isnan().any()


def test_without_gradients_none_is_computed():
    tensors, labels = inputs()
    products = Products()
    with torch.no_grad(), products:
        loss = linear_cross_entropy(*tensors, labels, chunk=9 * VOCAB)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, whole(*tensors, labels).detach(), rtol=1e-6, atol=0)
    assert products.count == -(-TOKENS // 9), "one a chunk, for its logits"


class Products(TorchDispatchMode):
    """Counts matrix products, and records the most elements of a result."""

    count, largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += func._overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        self.largest = max(self.largest, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_no_tensor_is_larger_than_a_chunk_or_an_input():
    tensors, labels = inputs()
    chunk = 9 * VOCAB
    with Products() as seen:
        linear_cross_entropy(*tensors, labels, chunk=chunk).backward()
    assert seen.largest <= max(chunk, VOCAB * DIM) < TOKENS * VOCAB
    with Products() as seen:
        whole(*tensors, labels).backward()
    assert seen.largest == TOKENS * VOCAB, "the mode sees them"


def test_a_second_backward_pass_is_an_error():
    """Gradients are scaled in place, so that a second pass would scale them twice."""
    tensors, labels = inputs()
    loss = linear_cross_entropy(*tensors, labels, chunk=9 * VOCAB)
    loss.mul(3).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.mul(3).backward()


def test_a_tied_weight_gets_both_gradients(tiny_model, monkeypatch):
    """Of the embedding and of the logits, as with whole logits."""
    llm = tiny_model.llm
    ids = torch.randint(llm.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))

    def grads():
        llm.zero_grad()
        hidden, _ = llm(llm.embed(ids[:, :-1]))
        loss = summed_cross_entropy(llm, hidden.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in llm.named_parameters()}

    llm.train().requires_grad_(True)
    loss, expected = grads()
    monkeypatch.setattr(module, "CHUNK", 3 * llm.vocab_size)
    monkeypatch.setattr(llm, "logits", lambda hidden: pytest.fail("whole logits"))
    own_loss, own = grads()
    torch.testing.assert_close(own_loss, loss, rtol=1e-6, atol=0)
    for name, grad in expected.items():
        torch.testing.assert_close(own[name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("wrong", [-1, -100, 10, 2**40])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_label_outside_the_vocabulary_is_an_error(wrong, at_once, monkeypatch):
    """Computed at once or in chunks: a label that is ignored in one of them would change the mean."""
    if not at_once:
        monkeypatch.setattr(module, "CHUNK", 20)
    llm = Linear()
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        summed_cross_entropy(llm, torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 4, wrong]))


class Linear:
    vocab_size, weight = 10, torch.ones(10, 4)

    def logits(self, hidden):
        return hidden @ self.weight.T

    def output_projection(self):
        return self.weight, None


@pytest.mark.parametrize("labels", [5, 7, (6, 1)])
def test_labels_that_are_not_one_a_token_are_refused(labels):
    """The last chunk would leave tokens out."""
    with pytest.raises(ValueError, match="not one a token"):
        linear_cross_entropy(torch.randn(6, 4), torch.ones(10, 4), None, torch.zeros(labels).long(), 20)


def test_a_gradient_of_a_gradient_is_refused():
    hidden = torch.randn(6, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(10, 4), None, torch.zeros(6).long(), 20)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_few_logits_are_computed_at_once(tiny_model):
    """To the bit as F.cross_entropy: nothing is gained by chunks."""
    llm = tiny_model.llm.requires_grad_(True)
    hidden = torch.randn(11, llm.dim, requires_grad=True)
    labels = torch.arange(11)
    whole_loss = F.cross_entropy(llm.logits(hidden).float(), labels, reduction="sum")
    loss = summed_cross_entropy(llm, hidden, labels)
    assert torch.equal(loss, whole_loss)
    assert torch.equal(*(torch.autograd.grad(each, hidden)[0] for each in (loss, whole_loss)))


def test_logits_that_are_no_linear_map_are_computed_whole(tiny_spec, monkeypatch):
    """A hooked or replaced output layer must be called."""
    llama = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 264,
    }
    spec = tiny_spec | {
        "llm": {**tiny_spec["llm"], "type": "transformers", "model": "nobody/nothing", "config": llama}
    }
    spec["llm"] = {"type": "transformers", "model": "nobody/nothing", "config": llama}
    llm = build(Spec.model_validate(spec), weights=False).llm
    monkeypatch.setattr(module, "CHUNK", 1)
    assert chunks_logits(llm)
    head = llm.model.get_output_embeddings()
    called = []
    hook = head.register_forward_hook(lambda *_: called.append(1))
    assert not chunks_logits(llm)
    hidden, labels = torch.randn(5, llm.dim), torch.arange(5)
    assert torch.equal(
        summed_cross_entropy(llm, hidden, labels),
        F.cross_entropy(llm.logits(hidden).float(), labels, reduction="sum"),
    )
    assert len(called) == 2
    hook.remove()
    assert chunks_logits(llm)
    llm.model.lm_head = nn.Sequential(head)
    llm.model.lm_head.weight = head.weight
    assert not chunks_logits(llm)
