"""Generation by transformers, whose cache from step to step is the state of the language model."""

# transformers' own signatures list what other models need; ours take what they use
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


@dataclass
class StateCache:
    """A state after `length` positions of every row, padding counted in. It is never changed in place."""

    state: Any
    length: int

    is_compileable: ClassVar[bool] = False
    is_linear: ClassVar[tuple[bool, ...]] = (True,)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise UserError("beam search is not supported, as it reorders the states of rows; use num_beams=1")


class VLMGeneration(GenerationMixin):
    """`generate` with a state for its cache."""

    _is_stateful = True
    config: Any

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As transformers' `generate`, which names the options that it doesn't know; `UserError` for beam search."""
        held = generation_config or self.generation_config
        for name, most in (("num_beams", 1), ("num_beam_groups", 1)):
            if (kwargs.get(name) or getattr(held, name, None) or 1) > most:
                raise UserError(
                    f"{name}: beam search is not supported, as it reorders the states of rows; use num_beams=1"
                )
        for name in ("output_attentions", "output_hidden_states", "cache_implementation", "guidance_scale"):
            refuse({name: kwargs.get(name) or getattr(held, name, None)})
        refuse({"past_key_values": kwargs.get("past_key_values")})
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
        is_first_iteration: bool = False,
        logits_to_keep: int = 1,
        use_cache: bool | None = None,
    ) -> dict[str, Any]:
        """What the cache has not seen yet; images only with the prompt that holds them."""
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
            inputs["pixel_values"] = pixel_values  # refused without the places of the images
        elif past < image_mask.shape[1]:
            inputs["image_mask"] = F.pad(image_mask, (0, new - image_mask.shape[1]))[:, past:]
            inputs["pixel_values"] = pixel_values
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Any = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Rows are repeated next to each other, and so are all images of a row together."""
        pixels, marks = model_kwargs.pop("pixel_values", None), model_kwargs.get("image_mask")
        rows = None if pixels is None or marks is None else marks.sum(1) // self.config.image_tokens
        inherited: Any = super()
        ids, kwargs = inherited._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if pixels is not None and rows is not None and expand_size > 1:
            pixels = torch.cat([p.repeat(expand_size, 1, 1, 1) for p in pixels.split(rows.tolist())])
        return ids, {**kwargs, "pixel_values": pixels}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The language model makes its own state."""
        return False


def refuse(options: Mapping[str, Any]) -> None:
    """Raises `UserError` for an option that is set: this model gives logits alone, and keeps a state of its own."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise UserError(
                f"{name} is not possible: this model gives logits, and its cache is its own state"
            )
