"""What trainers of transformers and trl need: the loss, hidden states without the head, activation checkpointing."""

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


def label_positions(
    labels: Tensor, image_mask: Tensor | None, attention_mask: Tensor | None, counted: Any
) -> Tensor:
    """A mask (B, T - 1) of the labels in the loss: text that is neither padding nor directly after padding."""
    labelled = labels[:, 1:] != IGNORED
    targets = labelled
    if image_mask is not None:
        targets = targets & ~image_mask[:, 1:].bool()
    if attention_mask is not None:
        tokens = attention_mask.bool()
        targets = targets & tokens[:, 1:] & tokens[:, :-1]
    if counted is not None and not torch.equal(targets, labelled):
        log.warning(
            "labels at image or padding positions are ignored, but num_items_in_batch counts them, which makes the "
            "loss too small; set them to -100 or use processor.data_collator()"
        )
    return targets


def refuse_external_loss(labels: Tensor | None, counted: Any) -> None:
    """Raise `UserError` for a trainer that computes the loss itself: it would not shift the labels."""
    if labels is None and counted is not None:
        raise UserError(
            "num_items_in_batch without labels: the model computes the loss. Trainer's label_smoothing_factor would "
            "compare each position with its own token; leave out label_smoothing_factor and compute_loss_func"
        )


def label_loss(logits: Tensor, labels: Tensor, targets: Tensor, count: Any) -> Tensor:
    """Summed cross entropy of the labels in the mask `targets`, divided by `count` or by their number."""
    ids = labels[:, 1:][targets]
    summed = F.cross_entropy(logits[:, :-1][targets].float(), ids, reduction="sum")
    count = len(ids) if count is None else count
    return summed / torch.as_tensor(count, device=summed.device).clamp(min=1)


@dataclass
class BackboneOutput(ModelOutput):
    """Hidden states (B, T, M), the input of the head."""

    last_hidden_state: Tensor | None = None


class Backbone:
    """`model` without its head; all attributes are the model's."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor | None = None, use_cache: bool | None = None, **inputs: Any) -> Any:
        """Inputs of `forward_hidden` -> the hidden states."""
        if use_cache:
            raise UserError("use_cache: the model without its head returns no state; call the model itself")
        if self._model.get_output_embeddings() is None:
            raise UserError(
                f"{type(self._model.model.llm).__name__} computes logits with more than one linear layer, which this "
                "trainer would skip; use transformers' Trainer"
            )
        return BackboneOutput(self._model.forward_hidden(input_ids, **inputs)[0])  # pyright: ignore[reportCallIssue]

    def __getattr__(self, name: str) -> Any:
        if name == "_model":
            raise AttributeError(name)
        return getattr(self._model, name)


def output_layer(llm: LanguageModel) -> nn.Linear | None:
    """The language model's output layer, or a new one that shares a tied weight; None if logits are more than that."""
    projection = llm.output_projection()
    if projection is None:
        return None
    weight, bias = projection
    for module in llm.modules():
        if type(module) is nn.Linear and module.weight is weight:
            return module
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight  # pyright: ignore[reportAttributeAccessIssue]
    if bias is not None:
        layer.bias = bias  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def _forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    """A block's original forward, through the checkpoint function when training with gradients."""
    forward = MethodType(type(block).forward, block)
    if block.training and torch.is_grad_enabled():
        return block.checkpoint_function(forward, *args, **kwargs)
    return forward(*args, **kwargs)


def set_checkpointing(module: nn.Module, function: Callable[..., Any] | None, every: int = 1) -> None:
    """Recompute every n-th block with `function`, such as `torch.utils.checkpoint.checkpoint`; None turns it off.

    Raises `UserError` for a block whose forward is already replaced.
    """
    for i, block in enumerate(transformer_layers(module)):
        ours = hasattr(block, "checkpoint_function")
        if "forward" in vars(block) and not ours:
            raise UserError(f"{type(block).__name__}.forward is replaced: its block can't be recomputed")
        if ours:
            del block.forward, block.checkpoint_function
        if function is not None and i % every == 0:
            holder: Any = block
            holder.checkpoint_function, holder.forward = function, MethodType(_forward, block)
