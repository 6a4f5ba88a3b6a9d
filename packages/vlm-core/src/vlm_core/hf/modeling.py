"""A model folder as a transformers model: `from_pretrained`, `forward`, `generate`, `save_pretrained`."""

# transformers' signatures list arguments of other models; ours take what they use
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils.generic import ModelOutput

from vlm_core.errors import UserError
from vlm_core.hf import components, saving
from vlm_core.hf.arguments import (
    SAVING,
    as_device,
    as_dtype,
    check_loading,
    local_folder,
    refuse_unknown,
)
from vlm_core.hf.configuration import VLMConfig, matching_config, read_config, transformers_errors
from vlm_core.hf.generation import StateCache, VLMGeneration, refuse_options
from vlm_core.hf.input_checks import check_rows, check_shapes, image_embeds, logit_positions, segments_of
from vlm_core.hf.saving import upload_of
from vlm_core.hf.training import (
    Backbone,
    label_loss,
    label_positions,
    output_layer,
    refuse_external_loss,
    set_checkpointing,
)
from vlm_core.model import PARTS, VLM, splice
from vlm_core.model_folder.file_list import verify_model
from vlm_core.model_folder.load import load_model
from vlm_core.model_folder.weights import to_dtype


@dataclass
class VLMOutput(ModelOutput):
    """The loss if labels were given, logits (B, T, V) of the requested positions, and the state if requested."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: StateCache | None = None


class VLMForConditionalGeneration(VLMGeneration, PreTrainedModel, GenerationMixin):
    """`VLM` with transformers' interface. Made by `from_pretrained(folder)`."""

    config_class = VLMConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True

    def __init__(self, config: VLMConfig, model: VLM | None = None) -> None:
        super().__init__(config)
        if model is None:
            raise UserError(
                f"{type(self).__name__} is made from a model folder: use from_pretrained(folder); "
                "vlm-assemble SPEC writes one with random weights"
            )
        self.model = model
        self.loss_type = "ForConditionalGeneration"  # tells Trainer that labels are shifted inside the model
        self.gradient_checkpointing, self.files = False, dict[str, bytes]()
        self.facts: dict[str, Any] = {}
        self.post_init()
        ends = config.eos_token_id
        ids = {"eos_token_id": ends, "pad_token_id": ends[0] if isinstance(ends, list) else ends}
        self.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, **ids)

    def init_weights(self) -> None:
        """Nothing to do: the parts initialise themselves."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *,
        config: Any = None,
        dtype: Any = None,
        device_map: Any = None,
        generation_config: Any = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model folder, or a hub repository with one, as `vlm_core.model_folder.assemble.load` does.

        `dtype` (default: as saved), `device_map` (one device) and `trust_remote_code` are supported. Other arguments
        that would change the model raise `UserError`. `output_loading_info=True` returns (model, empty report): loading
        is strict.
        """
        dtype = dtype or kwargs.pop("torch_dtype", None)
        check_loading(kwargs)
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        manifest = verify_model(folder)
        config = matching_config(folder, config)
        trust = bool(kwargs.get("trust_remote_code"))
        to = as_dtype(dtype), as_device(device_map)
        inner = load_model(lambda: components.build(folder, trust_remote_code=trust), folder, PARTS, *to)
        with transformers_errors(folder / saving.CONFIG):
            model = cls(config, inner).eval()
        config.name_or_path, config.dtype = str(folder), model.dtype
        model.files, model.facts = saving.small_files(folder), manifest
        if generation_config is None and saving.GENERATION in model.files:
            generation_config = read_config(GenerationConfig.from_pretrained, folder, saving.GENERATION)
        model.generation_config = generation_config or model.generation_config
        report = dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ())
        return (model, report) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        **kwargs: Any,
    ) -> None:
        """Write a model folder with the current weights, or those of `state_dict`; only the main process writes.

        A model saved in the folder before is replaced; other files stay. Raises `UserError` for unknown arguments.
        """
        hub_arguments = {name: value for name, value in kwargs.items() if name not in SAVING}
        refuse_unknown("save_pretrained", {k: v for k, v in kwargs.items() if k in SAVING}, SAVING, ())
        upload, limit = upload_of(push_to_hub, hub_arguments), saving.size_of(max_shard_size)
        if not is_main_process:
            return
        outdated = (saving.CARD, "random_weights", "files")
        facts = {key: value for key, value in self.facts.items() if key not in outdated}

        def write(folder: Path) -> None:
            saving.put_files(folder, {n: c for n, c in self.files.items() if n != saving.CARD})
            self._save_configs(folder)
            saving.save_parts(folder, self.model, PARTS, limit, state_dict)

        card, target = self.files.get(saving.CARD), Path(save_directory)
        saving.replace_folder(
            target, write, facts, card and (lambda manifest: saving.card_of(card, manifest))
        )
        upload(target, saving.saved_names(target))

    def _save_configs(self, folder: Path) -> None:
        """Write config.json with the current dtype and token ids, and generation_config.json."""
        content = json.loads(self.files[saving.CONFIG])
        content |= {"dtype": str(self.dtype).removeprefix("torch."), "eos_token_id": self.config.eos_token_id}
        content["bos_token_id"] = self.config.bos_token_id
        (folder / saving.CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        self.generation_config.save_pretrained(folder)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch; also takes the tensors of one part by their names in that part's file."""
        named = saving.full_names(state_dict, self.state_dict(), PARTS)
        return super().load_state_dict(named, strict, assign)

    def to(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As in torch, except that `keeps_fp32` parameters (A_log, D, Δ bias) stay fp32."""
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if dtype is not None:
            to_dtype(self.model, dtype)
            self.config.dtype = dtype
        return self if device is None else super().to(device)

    def half(self) -> Any:
        return self.to(torch.float16)

    def bfloat16(self) -> Any:
        return self.to(torch.bfloat16)

    def float(self) -> Any:
        return self.to(torch.float32)

    @property
    def base_model(self) -> Any:
        """The model without its head, for trl, which multiplies hidden states by the head itself."""
        return Backbone(self)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Deprecated in transformers, but peft reads it."""
        return bool(self.gradient_checkpointing)

    def get_input_embeddings(self) -> Any:
        """The language model's token embedding, under whatever name it has there."""
        return next(m for m in self.model.llm.modules() if isinstance(m, torch.nn.Embedding))

    def get_output_embeddings(self) -> Any:
        """The linear layer from hidden states to logits, with the model's weight; None if logits are more than that."""
        return output_layer(self.model.llm)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Any:
        """The embedding unchanged; `UserError` for another size."""
        if new_num_tokens not in (None, self.model.llm.vocab_size) or pad_to_multiple_of is not None:
            raise UserError(
                f"the vocabulary of {self.model.llm.vocab_size} ids belongs to the folder's tokenizer and spec; it "
                "can't be resized"
            )
        return self.get_input_embeddings()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        set_checkpointing(self.model, gradient_checkpointing_func if enable else None, every_n_layers)
        self.gradient_checkpointing = enable

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        cache: StateCache | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        image_order: Tensor | None = None,
    ) -> Any:
        """Ids (B, T) and images (N, 3, h, w), in the order of their positions in `image_mask` (B, T) -> `VLMOutput`.

        With tiles, pixels are those of all views, and `image_order` (B, T) says which of their tokens is at a position.

        `attention_mask` (B, T) is 0 at padding. `labels` (B, T) are unshifted ids, -100 where there is no target;
        labels at images, at padding and directly after padding are ignored. The loss is the mean cross entropy, or the
        sum divided by `num_items_in_batch`. `logits_to_keep` limits logits (B, T, V) to the last positions or to an
        index; 0 keeps all.
        """
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        refuse_options(
            {name: getattr(self.config, name, None) if v is None else v for name, v in options.items()}
        )
        refuse_options({"past_key_values": past_key_values})
        refuse_external_loss(labels, num_items_in_batch)
        hidden, state = self.forward_hidden(
            input_ids, attention_mask, pixel_values, image_mask, inputs_embeds, cache, image_order
        )
        logits, loss = self.model.llm.logits(hidden[:, logit_positions(logits_to_keep)]), None
        if labels is not None:
            if logits.shape[1] != hidden.shape[1]:
                raise UserError("labels need all logits; leave out logits_to_keep")
            check_rows("labels", labels, hidden)
            targets = label_positions(labels, image_mask, attention_mask, num_items_in_batch)
            loss = label_loss(logits, labels, targets, num_items_in_batch)
        elif self.config.token_count < logits.shape[-1]:  # padding of the vocabulary is not a token
            logits[..., self.config.token_count :] = -torch.inf
        length = hidden.shape[1] + (cache.length if cache else 0)
        keep_state = labels is None if use_cache is None else use_cache
        output = VLMOutput(loss, logits, StateCache(state, length) if keep_state else None)  # pyright: ignore
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def forward_hidden(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: StateCache | None = None,
        image_order: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Inputs of `forward` -> (hidden states (B, T, M), the language model's state)."""
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("expected either input_ids or inputs_embeds")
        if (pixel_values is None) != (image_mask is None or not image_mask.any()):
            raise UserError("pixel_values and image_mask go together; the processor makes both")
        inputs, dims = (input_ids, 2) if inputs_embeds is None else (inputs_embeds, 3)
        check_shapes(inputs, dims, image_mask, pixel_values)  # pyright: ignore[reportArgumentType]
        x = self.model.llm.embed(input_ids) if inputs_embeds is None else inputs_embeds  # pyright: ignore
        if pixel_values is not None and image_mask is not None:
            embeds = image_embeds(self.model, image_mask, pixel_values, image_order)
            x = splice(x, image_mask.bool(), embeds)
        segments = segments_of(attention_mask, x, cache.length if cache else 0)
        return self.model.forward_embeds(x, segments, cache and cache.state)
