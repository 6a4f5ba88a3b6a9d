"""The model without its head, for trainers that compute the loss from hidden states and the head's weight (trl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from vlm_core.errors import UserError
from vlm_core.interfaces import LanguageModel


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
    """A linear layer on the language model's own weight; None where its logits are not just that."""
    found = llm.head()
    if found is None:
        return None
    weight, bias = found
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer
