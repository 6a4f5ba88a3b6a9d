"""transformers' `generate` with the language model's state as its cache."""

# transformers' signatures list arguments of other models; ours take what they use
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin

from vlm_core.errors import UserError

NO_BEAM_SEARCH = "beam search is not supported, as it reorders the states of sequences; use num_beams=1"


@dataclass
class StateCache:
    """The language model's state after `length` positions, padding included. It is never changed in place."""

    state: Any
    length: int

    is_compileable: ClassVar[bool] = False
    is_linear: ClassVar[tuple[bool, ...]] = (True,)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise UserError(NO_BEAM_SEARCH)


class VLMGeneration(GenerationMixin):
    """`generate` whose cache is a `StateCache`."""

    _is_stateful = True
    config: Any

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As in transformers; `UserError` for beam search and other options that the state can't support."""
        config = generation_config or self.generation_config
        for name in ("num_beams", "num_beam_groups"):
            if (kwargs.get(name) or getattr(config, name, None) or 1) > 1:
                raise UserError(f"{name}: {NO_BEAM_SEARCH}")
        for name in ("output_attentions", "output_hidden_states", "cache_implementation", "guidance_scale"):
            refuse_options({name: kwargs.get(name) or getattr(config, name, None)})
        refuse_options({"past_key_values": kwargs.get("past_key_values")})
        inherited: Any = super()
        return inherited.generate(inputs, generation_config, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: StateCache | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_order: Tensor | None = None,
        is_first_iteration: bool = False,
        logits_to_keep: int = 1,
        use_cache: bool | None = None,
    ) -> dict[str, Any]:
        """The inputs of positions that are not in the cache; images are passed with the prompt only."""
        past, new = cache.length if cache else 0, input_ids.shape[1]
        inputs: dict[str, Any] = {
            "input_ids": input_ids[:, past:],
            "cache": cache,
            "logits_to_keep": logits_to_keep,
        }
        inputs["use_cache"] = use_cache
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask[:, past:]
        if image_mask is None:
            inputs["pixel_values"] = pixel_values  # an error in `forward`: image_mask is missing
        elif past < image_mask.shape[1]:
            inputs["image_mask"] = F.pad(image_mask, (0, new - image_mask.shape[1]))[:, past:]
            inputs["pixel_values"] = pixel_values
            if image_order is not None:
                inputs["image_order"] = F.pad(image_order, (0, new - image_order.shape[1]))[:, past:]
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Any = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat each sequence `expand_size` times, copies adjacent, with all of its images.

        With an `image_order`, whose copies refer to the same views, pixels are not repeated.
        """
        pixels, mask = model_kwargs.pop("pixel_values", None), model_kwargs.get("image_mask")
        image_counts = None if pixels is None or mask is None else mask.sum(1) // self.config.image_tokens
        inherited: Any = super()
        ids, kwargs = inherited._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        shared = kwargs.get("image_order") is not None
        if pixels is not None and image_counts is not None and expand_size > 1 and not shared:
            groups = pixels.split(image_counts.tolist())
            pixels = torch.cat([group.repeat(expand_size, 1, 1, 1) for group in groups])
        return ids, {**kwargs, "pixel_values": pixels}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """False: the language model makes its own state."""
        return False


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raise `UserError` for an option that is set: the model returns logits only, and its cache is its own state."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise UserError(
                f"{name} is not possible: this model returns logits only, and its cache is its own state"
            )
