"""The model's interface for trainers: loss, hidden states without the head, activation checkpointing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from vlm_core.errors import UserError
from vlm_core.interfaces import LanguageModel
from vlm_core.numerics.layers import transformer_layers

log = logging.getLogger(__name__)
IGNORED = -100


def learnable(
    labels: Tensor, image_mask: Tensor | None, attention_mask: Tensor | None, counted: Any
) -> Tensor:
    """Where a label (B, T - 1) counts: at text that is neither padding nor directly after padding."""
    given = labels[:, 1:] != IGNORED
    wanted = given
    if image_mask is not None:
        wanted = wanted & ~image_mask[:, 1:].bool()
    if attention_mask is not None:
        live = attention_mask.bool()
        wanted = wanted & live[:, 1:] & live[:, :-1]
    if counted is not None and not torch.equal(wanted, given):
        log.warning(
            "labels at image or padding positions are ignored, but num_items_in_batch counts them, which makes the "
            "loss too small; set them to -100 or use processor.data_collator()"
        )
    return wanted


def refuse_outside_loss(labels: Tensor | None, counted: Any) -> None:
    """Raises `UserError` for a trainer that keeps the labels and makes the loss itself: it would not shift them."""
    if labels is None and counted is not None:
        raise UserError(
            "num_items_in_batch without labels: the loss is made by the model. Trainer's label_smoothing_factor would "
            "compare each position with its own token; leave it out, and compute_loss_func, too"
        )


def summed_loss(logits: Tensor, labels: Tensor, wanted: Tensor, count: Any) -> Tensor:
    """Cross entropy of the wanted labels, over `count` or over their number."""
    targets = labels[:, 1:][wanted]
    summed = F.cross_entropy(logits[:, :-1][wanted].float(), targets, reduction="sum")
    count = len(targets) if count is None else count
    return summed / torch.as_tensor(count, device=summed.device).clamp(min=1)


@dataclass
class BackboneOutput(ModelOutput):
    """Hidden states (B, T, M), of which the head makes logits."""

    last_hidden_state: Tensor | None = None


class Backbone:
    """`model` as far as its hidden states; everything else is the model's own."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor | None = None, use_cache: bool | None = None, **inputs: Any) -> Any:
        """Inputs as those of `read` -> the hidden states."""
        if use_cache:
            raise UserError("use_cache: hidden states come without a state; call the model itself")
        if self._model.get_output_embeddings() is None:
            raise UserError(
                f"{type(self._model.model.llm).__name__} makes logits by more than one linear layer, which this "
                "trainer would leave out; use transformers' Trainer"
            )
        return BackboneOutput(self._model.read(input_ids, **inputs)[0])  # pyright: ignore[reportCallIssue]

    def __getattr__(self, name: str) -> Any:
        if name == "_model":
            raise AttributeError(name)
        return getattr(self._model, name)


def head_of(llm: LanguageModel) -> nn.Linear | None:
    """The language model's output layer, or one on its own weight where that is tied; None where logits are more."""
    found = llm.output_projection()
    if found is None:
        return None
    weight, bias = found
    for module in llm.modules():
        if type(module) is nn.Linear and module.weight is weight:
            return module
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight  # pyright: ignore[reportAttributeAccessIssue]
    if bias is not None:
        layer.bias = bias  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def _forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    """A block's own forward, through the checkpoint function while gradients are wanted."""
    own = MethodType(type(block).forward, block)
    if block.training and torch.is_grad_enabled():
        return block.checkpoint_function(own, *args, **kwargs)
    return own(*args, **kwargs)


def set_recompute(module: nn.Module, function: Callable[..., Any] | None, every: int = 1) -> None:
    """Compute every n-th block again by `function` (as `torch.utils.checkpoint.checkpoint`); None: none of them.

    Raises `UserError` for a block whose forward somebody else has replaced.
    """
    for i, block in enumerate(transformer_layers(module)):
        mine = hasattr(block, "checkpoint_function")
        if "forward" in vars(block) and not mine:
            raise UserError(f"{type(block).__name__}.forward is replaced: its block can't be recomputed")
        if mine:
            del block.forward, block.checkpoint_function
        if function is not None and i % every == 0:
            holder: Any = block
            holder.checkpoint_function, holder.forward = function, MethodType(_forward, block)
