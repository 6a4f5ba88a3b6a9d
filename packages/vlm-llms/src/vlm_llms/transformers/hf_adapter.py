"""Adapter of transformers: any causal language model that accepts `inputs_embeds`, as a `LanguageModel`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING, LanguageModel, Tokenizer
from vlm_core.model_folder.weights import derived_floats, disk_errors
from vlm_core.plugins.local_code import keep_code
from vlm_llms.transformers.hf_logits import LogitRule
from vlm_llms.transformers.hf_state import (
    CacheState,
    attends,
    attends_to_everything,
    copy_cache,
    has_window,
    is_recurrent,
    keep_where,
)
from vlm_llms.transformers.hf_steps import limit_steps

_CACHE_NAMES = ("cache", "past_key_values", "cache_params")  # one name since transformers 5.24


def _packed(segments: Tensor) -> bool:
    """Whether some row of (B, T) holds more than one sample."""
    real = segments != PADDING
    first = segments.masked_fill(~real, torch.iinfo(segments.dtype).max).amin(1)
    last = segments.masked_fill(~real, torch.iinfo(segments.dtype).min).amax(1)
    return bool((first < last).any())


def _positions(segments: Tensor) -> Tensor:
    """Position within the segment: (B, T) -> (B, T)."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - index.masked_fill(~starts, 0).cummax(1).values


def _block_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask (B, 1, T, T): causal, and within the segment."""
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = (segments.unsqueeze(2) == segments.unsqueeze(1)) & past
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)


def _max_positions(config: Any) -> int | None:
    """Positions that a model was made for; None if its configuration tells none, or stretches rotary embeddings."""
    rotary = getattr(config, "rope_parameters", None) or {}
    of_layers = [each for each in (rotary, *rotary.values()) if isinstance(each, Mapping)]
    if any(each.get("rope_type", "default") != "default" for each in of_layers):
        return None
    count = getattr(config, "max_position_embeddings", None)
    return count if type(count) is int and count > 0 else None


class TransformersLM(LanguageModel):
    """Wraps a `PreTrainedModel` with a language-modelling head.

    In training with gradients the returned state is None. A state is continued one position at a time if the model has
    recurrent layers: given several positions, some of them reset their state.
    """

    def __init__(self, model: nn.Module, load_tokenizer: Callable[[], Tokenizer]) -> None:
        super().__init__(load_tokenizer)
        limit_steps(model)
        self.model: Any = model
        self.model.config.return_dict = True  # outputs are read by name
        self.decoder_config: Any = self.model.config.get_text_config(decoder=True)
        self.max_positions = _max_positions(self.decoder_config)
        self.vocab_size, self.dim = self.model.get_input_embeddings().weight.shape
        self._logit_rule = LogitRule.of(self.decoder_config)
        accepted = inspect.signature(self._decoder.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._cache_name = next((name for name in _CACHE_NAMES if name in accepted), "")
        if not self._cache_name or "inputs_embeds" not in accepted:
            raise UserError(
                f"{type(model).__name__} can't be used: its base model must take inputs_embeds and one of "
                f"{', '.join(_CACHE_NAMES)}; it takes {', '.join(accepted)}"
            )
        layout = self._empty(1).cache
        self._recurrent, self._attends = is_recurrent(layout), attends(layout)
        self._windowed = has_window(layout)
        self.pads_between = not self._windowed
        self.supports_packing = self._takes_positions and attends_to_everything(layout)

    @property
    def keeps_fp32(self) -> list[str]:
        """Tensors that the library computes, such as rotary frequencies: rounding would change positions."""
        return derived_floats(self)

    @property
    def _decoder(self) -> Any:
        """The model without its head."""
        base = self.model.base_model
        return base if base is not self.model else self.model.get_decoder()

    def _empty(self, batch: int) -> CacheState:
        return CacheState.empty(self.decoder_config, batch)

    @torch.no_grad()
    def state_from_tensors(self, tensors: Mapping[str, Tensor]) -> CacheState:
        device = self.model.get_input_embeddings().weight.device
        one = self.embed(torch.zeros(1, 1, dtype=torch.long, device=device))
        _, like = self._run(
            one, self._empty(1), None
        )  # the library creates a layer's tensors at its first position
        return CacheState.from_tensors(tensors, self.decoder_config, like)

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, M)."""
        return self.model.get_input_embeddings()(input_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., M) -> (..., V), scaled and capped as the model does."""
        head = self.model.get_output_embeddings()
        exact = head.weight.is_floating_point()  # quantised layers take any dtype
        return self._logit_rule(head(hidden.to(head.weight.dtype) if exact else hidden))

    def output_projection(self) -> tuple[Tensor, Tensor | None] | None:
        """The head's weight and bias; None if the layer is wrapped or hooked, or logits are scaled or capped."""
        head = self.model.get_output_embeddings()
        if type(head) is not nn.Linear or self._logit_rule != LogitRule():
            return None
        if head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head):
            return None
        return head.weight, head.bias

    def save_assets(self, folder: Path) -> None:
        """Write the model's config.json, the tokenizer, and the model's code if it comes from a repository."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)
        keep_code(folder, {"AutoConfig": type(self.model.config), "AutoModelForCausalLM": type(self.model)})
        super().save_assets(folder)

    def save_pretrained(self, folder: Path) -> None:
        """Write what transformers loads: config.json, safetensors and the tokenizer."""
        with disk_errors():
            self.model.save_pretrained(folder)
        self.tokenizer.save(folder)

    def forward(
        self, x: Tensor, *, segments: Tensor | None = None, state: CacheState | None = None
    ) -> tuple[Tensor, CacheState | None]:
        """See `LanguageModel.forward`. Several samples in one row leave no state: the one returned is None.

        Raises `ValueError` for such rows where `supports_packing` is False or a state is given.
        """
        if segments is not None and _packed(segments):
            return self._forward_packed(x, segments, state), None
        real = None if segments is None else segments != PADDING
        real = None if real is None or bool(real.all()) else real
        if self._windowed and state is not None and self._ends_in_padding(state.attended(x, real)):
            raise ValueError(
                f"padding between chunks can't be skipped by {type(self.model).__name__}, whose attention "
                "window counts positions; pad in front of the first chunk only, or continue each sample alone"
            )
        if state is None and self.training and torch.is_grad_enabled():
            return self._run(x, self._empty(len(x)), real, remember=False)[0], None
        if not self._recurrent or (state is None and not self._ends_in_padding(real)):
            return self._run(x, self._empty(len(x)) if state is None else state.clone(), real)
        return self._step(x, self._empty(len(x)) if state is None else state.clone(), real)

    @staticmethod
    def _ends_in_padding(real: Tensor | None) -> bool:
        """Whether padding follows a real position, which would change a recurrent state."""
        return real is not None and bool((real[:, :-1] & ~real[:, 1:]).any())

    def _run(
        self, x: Tensor, state: CacheState, real: Tensor | None, remember: bool = True
    ) -> tuple[Tensor, CacheState]:
        """Run x at once; the cache of `state` is modified in place."""
        length, attended = x.shape[1], state.attended(x, real)
        arguments: dict[str, Any] = {"inputs_embeds": x, "use_cache": remember}
        if remember:
            arguments[self._cache_name] = state.cache
        if self._takes_positions:  # always: by default some models restart at 0
            arguments["position_ids"] = self._position_ids(x, state, attended)
        if attended is not None and (self._attends or state.length == 0):
            arguments["attention_mask"] = attended.long()
        hidden = self._decoder(**arguments).last_hidden_state
        return hidden, CacheState(state.cache, state.batch, state.length + length, attended)

    @staticmethod
    def _position_ids(x: Tensor, state: CacheState, attended: Tensor | None) -> Tensor:
        """Position of each of x (B, T, M) in its sequence, padding not counted: (B, T)."""
        batch, length, _ = x.shape
        if attended is not None:
            return (attended.cumsum(1) - 1).clamp(min=0)[:, -length:]
        return torch.arange(state.length, state.length + length, device=x.device).expand(batch, -1)

    def _step(self, x: Tensor, state: CacheState, real: Tensor | None) -> tuple[Tensor, CacheState]:
        """Run x one position at a time; sequences with padding there keep their recurrent state."""
        hidden = []
        for t in range(x.shape[1]):
            moved = None if real is None or bool(real[:, t].all()) else real[:, t]
            before = None if moved is None else copy_cache(state.cache)
            one, state = self._run(x[:, t : t + 1], state, None if moved is None else moved[:, None])
            if moved is not None and before is not None:
                keep_where(state.cache, moved, before)
            hidden.append(one)
        return torch.cat(hidden, dim=1), state

    def _forward_packed(self, x: Tensor, segments: Tensor, state: CacheState | None) -> Tensor:
        if not self.supports_packing or state is not None:
            why = "continue a state" if state is not None else f"share a row in {type(self.model).__name__}"
            raise ValueError(f"several samples can't {why}; give each sample its own padded row")
        mask, positions = _block_mask(segments, x.dtype), _positions(segments)
        return self._decoder(
            inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
