"""A model folder as a transformers model: `from_pretrained`, `forward`, `generate`, `save_pretrained`."""

# transformers' own signatures list what other models need; ours take what they use
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils.generic import ModelOutput

from vlm_core.errors import UserError
from vlm_core.folder import MANIFEST, read_manifest, verify_folder, write_folder
from vlm_core.hf import parts
from vlm_core.hf.cache import StateCache
from vlm_core.hf.configuration import VLMConfig
from vlm_core.hf.location import as_device, as_dtype, local_folder, only_known
from vlm_core.interfaces import PADDING
from vlm_core.model import PARTS, VLM
from vlm_core.weights import WEIGHTS, attach_parts, empty_parameters, save_part


@dataclass
class VLMOutput(ModelOutput):
    """loss if labels were given, logits (B, T, V) of the positions kept, the state."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: StateCache | None = None


class VLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """`VLM` behind transformers' interface. Made by `from_pretrained(folder)`."""

    config_class = VLMConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: VLMConfig, model: VLM | None = None) -> None:
        super().__init__(config)
        if model is None:
            raise UserError(
                f"{type(self).__name__} is made from a model folder: use from_pretrained(folder); "
                "vlm-assemble SPEC writes one with random weights"
            )
        self.model = model
        self.post_init()
        ends = config.eos_token_id
        ids = {"eos_token_id": ends, "pad_token_id": ends[0] if isinstance(ends, list) else ends}
        self.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, **ids)

    def init_weights(self) -> None:
        """The parts have done that themselves."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *_: Any, config: Any = None, dtype: Any = None,
        device_map: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Load a model folder, or a hub repository that holds one, as `vlm_core.assemble.load` does.

        `dtype` (default: as saved) and `device_map` (one device) are understood; what else would change the model is a
        `UserError`. With `output_loading_info=True` returns the model and an empty report: loading is strict.
        """
        report, dtype = kwargs.pop("output_loading_info", False), dtype or kwargs.pop("torch_dtype", None)
        only_known(kwargs)
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        verify_folder(folder)
        config = config or VLMConfig.from_pretrained(folder)
        with empty_parameters():
            inner = parts.build(folder)
        attach_parts(inner, folder, PARTS, as_dtype(dtype), as_device(device_map))
        model = cls(config, inner).eval()
        config.name_or_path, config.dtype = str(folder), model.dtype
        return (
            (model, dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ()))
            if report
            else model
        )

    def save_pretrained(self, save_directory: Any, **_: Any) -> None:
        """Write a model folder like the one this model came from, with the weights as they are now."""
        source, target = Path(str(self.config.name_or_path)), Path(save_directory)
        facts = {
            key: value
            for key, value in read_manifest(source).items()
            if key not in ("files", "random_weights")
        }

        def write(folder: Path) -> None:
            left = shutil.ignore_patterns(WEIGHTS, MANIFEST)
            shutil.copytree(source, folder, ignore=left, dirs_exist_ok=True)
            for part in PARTS:
                save_part(getattr(self.model, part), folder / part / WEIGHTS)

        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()  # callers make the folder first
        write_folder(target, write, facts)

    def get_input_embeddings(self) -> Any:
        """Module that embeds token ids; the language model's own, whatever it is called there."""
        return next(m for m in self.model.llm.modules() if isinstance(m, torch.nn.Embedding))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        is_image: Tensor | None = None,
        cache: StateCache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> VLMOutput:
        """Ids (B, T), images (N, 3, h, w) in the order of the positions marked `is_image` -> logits (B, T, V).

        Positions where `attention_mask` is 0 take part in nothing. `labels` (B, T) are the ids themselves, -100
        where nothing is learnt. Of the logits only the last `logits_to_keep` positions are made; 0 makes all.
        """
        if (pixel_values is None) != (is_image is None or not is_image.any()):
            raise UserError("pixel_values and is_image go together; the processor makes both")
        visual = None if pixel_values is None else self.model.see(pixel_values)
        x = self.model.embed(input_ids, is_image, visual)
        segments = None if attention_mask is None else _segments(attention_mask[:, -x.shape[1] :])
        hidden, state = self.model.read(x, segments, cache and cache.state)
        logits = self.model.llm.logits(hidden[:, -logits_to_keep:])
        length = x.shape[1] + (cache.length if cache else 0)
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
            return VLMOutput(loss, logits, StateCache(state, length))
        if (
            self.config.token_count < logits.shape[-1]
        ):  # a vocabulary padded for speed has rows that are no token
            logits[..., self.config.token_count :] = -torch.inf
        return VLMOutput(None, logits, StateCache(state, length))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, next_sequence_length: int | None = None, cache: StateCache | None = None,
        attention_mask: Tensor | None = None, pixel_values: Tensor | None = None, is_image: Tensor | None = None,
        is_first_iteration: bool = False, **_: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """What the cache has not seen yet; images only with the prompt that holds them."""
        past, new = cache.length if cache else 0, input_ids.shape[1]
        inputs: dict[str, Any] = {"input_ids": input_ids[:, past:], "cache": cache, "logits_to_keep": 1}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask[:, past:]
        if is_image is not None and past < is_image.shape[1]:
            inputs["is_image"] = F.pad(is_image, (0, new - is_image.shape[1]))[:, past:]
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
        pixels, marks = model_kwargs.pop("pixel_values", None), model_kwargs.get("is_image")
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


def _segments(mask: Tensor) -> Tensor | None:
    """An attention mask (B, T) of ones and zeros as segments; None where nothing is padded."""
    return None if bool(mask.all()) else torch.where(mask.bool(), 0, PADDING)
