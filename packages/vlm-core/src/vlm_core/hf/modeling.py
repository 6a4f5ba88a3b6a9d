"""A model folder as a transformers model: `from_pretrained`, `forward`, `generate`, `save_pretrained`."""

# transformers' own signatures list what other models need; ours take what they use
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
from vlm_core.hf import parts, saving
from vlm_core.hf.arguments import SAVING, as_device, as_dtype, local_folder, only, only_known
from vlm_core.hf.configuration import VLMConfig, read_config, transformers_errors
from vlm_core.hf.generation import StateCache, VLMGeneration, refuse
from vlm_core.hf.input_checks import check_rows, check_shapes, kept, segments_of
from vlm_core.hf.saving import upload_of
from vlm_core.hf.training import Backbone, head_of, learnable, refuse_outside_loss, set_recompute, summed_loss
from vlm_core.model import PARTS, VLM, splice
from vlm_core.model_folder.file_list import verify_model
from vlm_core.model_folder.load import load_model
from vlm_core.model_folder.weights import to_dtype

GIVEN = ("eos_token_id", "bos_token_id", "pad_token_id", "dtype", "name_or_path", "use_cache", "return_dict")
"""What a config may say otherwise than the folder: it is honoured, or changes nothing that is computed."""


@dataclass
class VLMOutput(ModelOutput):
    """loss if labels were given, logits (B, T, V) of the positions kept, the state."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: StateCache | None = None


class VLMForConditionalGeneration(VLMGeneration, PreTrainedModel, GenerationMixin):
    """`VLM` behind transformers' interface. Made by `from_pretrained(folder)`."""

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
        self.loss_type = "ForConditionalGeneration"  # labels are shifted: how Trainer counts them
        self.gradient_checkpointing, self.files = False, dict[str, bytes]()
        self.facts: dict[str, Any] = {}
        self.post_init()
        ends = config.eos_token_id
        ids = {"eos_token_id": ends, "pad_token_id": ends[0] if isinstance(ends, list) else ends}
        self.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, **ids)

    def init_weights(self) -> None:
        """The parts have done that themselves."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, config: Any = None, dtype: Any = None,
        device_map: Any = None, generation_config: Any = None, output_loading_info: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Load a model folder, or a hub repository that holds one, as `vlm_core.model_folder.assemble.load` does.

        `dtype` (default: as saved), `device_map` (one device) and `trust_remote_code` are understood; what else would
        change the model is a `UserError`. With `output_loading_info=True` returns the model and an empty report, for
        loading is strict.
        """
        dtype = dtype or kwargs.pop("torch_dtype", None)
        only_known(kwargs)
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        manifest = verify_model(folder)
        config = _config(folder, config)
        trust = bool(kwargs.get("trust_remote_code"))
        to = as_dtype(dtype), as_device(device_map)
        inner = load_model(lambda: parts.build(folder, trust_remote_code=trust), folder, PARTS, *to)
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
        """Write a model folder like the one this model came from, with the weights as they are now or `state_dict`'s.

        What is in the folder besides stays; a model saved there before is replaced. Only the main process writes.
        """
        rest = {name: value for name, value in kwargs.items() if name not in SAVING}
        only("save_pretrained", {k: v for k, v in kwargs.items() if k in SAVING}, SAVING, ())
        upload, limit = upload_of(push_to_hub, rest), saving.size_of(max_shard_size)
        if not is_main_process:
            return
        left = (saving.CARD, "random_weights", "files")
        facts = {key: value for key, value in self.facts.items() if key not in left}

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
        """config.json with the values that may have changed since, and how the model generates."""
        content = json.loads(self.files[saving.CONFIG])
        content |= {"dtype": str(self.dtype).removeprefix("torch."), "eos_token_id": self.config.eos_token_id}
        content["bos_token_id"] = self.config.bos_token_id
        (folder / saving.CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        self.generation_config.save_pretrained(folder)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch; what the file of one part holds is taken by its names there, too."""
        named = saving.full_names(state_dict, self.state_dict(), PARTS)
        return super().load_state_dict(named, strict, assign)

    def to(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As in torch, but what must stay fp32 (A_log, D, the bias of Δ) stays it."""
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
        """What gives hidden states: trl multiplies them by the head itself."""
        return Backbone(self)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Under the old name, which peft asks for and transformers warns of."""
        return bool(self.gradient_checkpointing)

    def get_input_embeddings(self) -> Any:
        """Module that embeds token ids; the language model's own, whatever it is called there."""
        return next(m for m in self.model.llm.modules() if isinstance(m, torch.nn.Embedding))

    def get_output_embeddings(self) -> Any:
        """The linear layer that makes logits, with the model's own weight; None where logits are not just that."""
        return head_of(self.model.llm)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Any:
        """The embedding as it is; another size is a `UserError`."""
        if new_num_tokens not in (None, self.model.llm.vocab_size) or pad_to_multiple_of is not None:
            raise UserError(
                f"the vocabulary of {self.model.llm.vocab_size} ids belongs to the folder's tokenizer and spec; it "
                "can't be resized"
            )
        return self.get_input_embeddings()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        set_recompute(self.model, gradient_checkpointing_func if enable else None, every_n_layers)
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
    ) -> Any:
        """Ids (B, T), images (N, 3, h, w) in the order of the positions marked `image_mask` -> logits (B, T, V).

        Positions where `attention_mask` is 0 take part in nothing. `labels` (B, T) are the ids themselves, -100
        where nothing is learnt; at images, at padding and right after it they count for nothing. The loss is their
        mean, or their sum over `num_items_in_batch`. Of the logits only the last `logits_to_keep` positions are made,
        or those of an index; 0 makes all.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        refuse({name: getattr(self.config, name, None) if v is None else v for name, v in asked.items()})
        refuse({"past_key_values": past_key_values})
        refuse_outside_loss(labels, num_items_in_batch)
        hidden, state = self.read(input_ids, attention_mask, pixel_values, image_mask, inputs_embeds, cache)
        logits, loss = self.model.llm.logits(hidden[:, kept(logits_to_keep)]), None
        if labels is not None:
            if logits.shape[1] != hidden.shape[1]:
                raise UserError("labels need all logits; leave out logits_to_keep")
            check_rows("labels", labels, hidden)
            wanted = learnable(labels, image_mask, attention_mask, num_items_in_batch)
            loss = summed_loss(logits, labels, wanted, num_items_in_batch)
        elif self.config.token_count < logits.shape[-1]:  # rows of a padded vocabulary are no tokens
            logits[..., self.config.token_count :] = -torch.inf
        length = hidden.shape[1] + (cache.length if cache else 0)
        remembers = labels is None if use_cache is None else use_cache
        output = VLMOutput(loss, logits, StateCache(state, length) if remembers else None)  # pyright: ignore
        whole = self.config.return_dict if return_dict is None else return_dict
        return output if whole else output.to_tuple()

    def read(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, Any]:
        """-> (hidden states (B, T, M), the language model's state)."""
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("give input_ids or inputs_embeds, one of them")
        if (pixel_values is None) != (image_mask is None or not image_mask.any()):
            raise UserError("pixel_values and image_mask go together; the processor makes both")
        given, dims = (input_ids, 2) if inputs_embeds is None else (inputs_embeds, 3)
        check_shapes(given, dims, image_mask, pixel_values)  # pyright: ignore[reportArgumentType]
        x = self.model.llm.embed(input_ids) if inputs_embeds is None else inputs_embeds  # pyright: ignore
        if pixel_values is not None and image_mask is not None:
            pixels = (
                pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values
            )  # as rows hold them
            visual = self.model.encode_images(pixels)
            if int(image_mask.sum()) != visual.shape[0] * visual.shape[1]:
                raise UserError(
                    f"image_mask marks {int(image_mask.sum())} positions, but {len(visual)} images take "
                    f"{visual.shape[1]} each; rows must not be cut inside an image"
                )
            x = splice(x, image_mask.bool(), visual)
        segments = segments_of(attention_mask, x, cache.length if cache else 0)
        return self.model.forward_embeds(x, segments, cache and cache.state)


def _config(folder: Path, given: Any) -> VLMConfig:
    """The folder's config, or the one that is given if it says the same; `UserError` names what is said otherwise."""
    own = read_config(VLMConfig.from_pretrained, folder, saving.CONFIG)
    if given is None:
        return own
    given = VLMConfig.from_pretrained(given) if isinstance(given, str | Path) else given
    if (way := getattr(given, "_attn_implementation", None)) not in (None, "sdpa"):
        raise UserError(
            f"from_pretrained: attn_implementation={way!r} is not possible with this model, only 'sdpa'"
        )
    mine, theirs = own.to_dict(), given.to_dict()
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in GIVEN and not name.startswith("_") and mine.get(name) != theirs.get(name):
            raise UserError(
                f"from_pretrained: {name}={theirs.get(name)!r:.60} would be another model; this folder's is "
                f"{mine.get(name)!r:.60}, and what it computes is described by its spec.yaml"
            )
    return given
