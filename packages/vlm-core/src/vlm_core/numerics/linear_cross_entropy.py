"""Cross entropy of logits that are never a whole tensor: (tokens × vocabulary) is computed a chunk of tokens at a time.

A chunk's logits give its loss and, while they exist, the gradients of hidden states and weight, as in Liger's fused
linear cross entropy (arXiv 2410.10989). The backward pass only multiplies these by the gradient of the loss.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2**26
"""Most logits that exist at once: 256 MB in fp32. Fewer are computed at once, without chunks."""
NONE_IGNORED = torch.iinfo(torch.int32).min
"""`ignore_index` of torch's cross entropy, where no label is to be ignored."""


class HasLogits(Protocol):
    """What the loss needs of a `LanguageModel`."""

    vocab_size: int

    def logits(self, hidden: Tensor) -> Tensor: ...
    def output_projection(self) -> tuple[Tensor, Tensor | None] | None: ...


def summed_cross_entropy(
    llm: HasLogits, hidden: Tensor, labels: Tensor, counted: Tensor | None = None
) -> Tensor:
    """Sum over n tokens of -log softmax(llm.logits(hidden))[label], in nats; hidden (n, M), labels (n) -> fp32 ().

    Every token counts, or those of which `counted` (n) is true: a label outside 0 to V-1, -100 included, raises
    `IndexError` or `RuntimeError`. All logits exist at once if there are at most `CHUNK`, or if `chunks_logits` is
    False.
    """
    if len(labels) * llm.vocab_size <= CHUNK or not chunks_logits(llm):
        logits = llm.logits(hidden).float()
        labels = labels if counted is None else torch.where(counted, labels, NONE_IGNORED)
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=NONE_IGNORED)
    weight, bias = llm.output_projection() or (hidden, None)
    return linear_cross_entropy(hidden, weight, bias, labels, counted=counted)


def chunks_logits(llm: HasLogits) -> bool:
    """Whether the loss of this language model is computed in chunks: its logits are a linear map of hidden states."""
    projection = llm.output_projection()
    return projection is not None and projection[0].is_floating_point()


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    chunk: int | None = None,
    *,
    counted: Tensor | None = None,
) -> Tensor:
    """`F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, reduction="sum")` a chunk at a time.

    A label outside 0 to V-1 is an error: no label is ignored, neither -100. Raises `ValueError` for other shapes. With
    `counted` (n) tokens of which it is false add nothing to the loss.
    hidden (n, M), weight (V, M), bias (V), labels (n) -> fp32 (). At most `chunk` (default: `CHUNK`) logits exist at
    once, but those of at least one token. Products are in autocast's dtype, or in the weight's;
    softmax, loss and the sums of gradients over chunks are fp32. A gradient with `create_graph` raises
    `RuntimeError`: the result can't be differentiated twice.
    """
    if labels.shape != hidden.shape[:1]:
        raise ValueError(
            f"labels are {tuple(labels.shape)}, hidden states {tuple(hidden.shape)}: not one a token"
        )
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    chunks = max(1, -(-len(labels) * len(weight) // (chunk or CHUNK)))
    tokens = max(1, -(-len(labels) // chunks))
    total = _LinearCrossEntropy.apply(hidden, weight, bias, labels, counted, tokens, _compute_dtype(weight))
    assert isinstance(total, Tensor)
    return total


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """Autocast's dtype where autocast is on, else the weight's."""
    device = weight.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else weight.dtype


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients of chunks of `tokens` tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        counted: Tensor | None,
        tokens: int,
        dtype: torch.dtype,
    ) -> Tensor:
        inputs = hidden, weight, bias
        grads = [
            torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and needed else None
            for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=False)
        ]
        grad_rows = (None,) if grads[0] is None else grads[0].split(tokens)
        total = torch.zeros((), device=hidden.device)
        with _without_autocast(hidden.device.type):
            cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            for i, (rows, ids) in enumerate(zip(hidden.split(tokens), labels.split(tokens), strict=True)):
                rows, ids = rows.to(dtype), ids.unsqueeze(1)
                log_probs = F.linear(rows, cast_weight, cast_bias).float().log_softmax(1)
                picked = log_probs.gather(1, ids)
                part = None if counted is None else counted[i * tokens : i * tokens + len(ids), None]
                total -= (picked if part is None else picked.where(part, 0)).sum()
                if any(grad is not None for grad in grads):
                    error = torch.exp(log_probs, out=torch.empty_like(log_probs, dtype=dtype))
                    error.scatter_(1, ids, (picked.exp() - 1).to(dtype))  # ∂loss/∂logits
                    error = error if part is None else error.masked_fill_(~part, 0)
                    grad_row = None if grads[0] is None else grad_rows[i]
                    _add_gradients((grad_row, grads[1], grads[2]), error, rows, cast_weight)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients, scaled in place: torch refuses a second backward pass, whose gradients would be wrong."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a chunked cross entropy can't be differentiated twice: leave out create_graph"
            )
        grads = [
            None if grad is None else grad.mul_(grad_outputs[0]).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None, None, None)


def _add_gradients(
    grads: tuple[Tensor | None, Tensor | None, Tensor | None], error: Tensor, rows: Tensor, weight: Tensor
) -> None:
    """Add a chunk's gradients to those of its hidden states (n, M), of the weight (V, M) and of the bias (V).

    `error` (n, V) is that of the logits, `rows` (n, M) the hidden states.
    """
    grad_rows, grad_weight, grad_bias = grads
    if grad_bias is not None:
        grad_bias += error.sum(0, dtype=grad_bias.dtype)
    if grad_rows is not None:
        _add_product(grad_rows, error, weight)
    if grad_weight is not None:
        _add_product(grad_weight, error.T, rows)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b in fp32. Without such a product of bf16 matrices, as on CPUs, the product is rounded first."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and torch.version.hip is None:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b
