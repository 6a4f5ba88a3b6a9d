"""State of a transformers model (its cache) as a value: no call changes a state in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from vlm_core.numerics.state_tensors import check_state_tensors
from vlm_llms.transformers.hf_state_tensors import cache_tensors, fill_cache, length_of

_GROWS_BY_CONCATENATION = (DynamicLayer, DynamicSlidingWindowLayer)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _nbytes(value: Any) -> int:
    """Bytes of the tensors in a layer's attribute."""
    if isinstance(value, Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_nbytes, inner))


def _copy_layer(layer: Any) -> Any:
    """A copy that may be modified. Keys and values are shared: layers replace them and never write into them."""
    layer_copy = copy.copy(layer)
    if type(layer) in _GROWS_BY_CONCATENATION:
        return layer_copy
    shared = ("keys", "values") if isinstance(layer, DynamicLayer) else ()
    vars(layer_copy).update(
        {name: _copied(value) for name, value in vars(layer).items() if name not in shared}
    )
    return layer_copy


def copy_cache(cache: Cache) -> Cache:
    """A copy that can be continued without changing `cache`: recurrent states copied, keys and values shared."""
    copied = copy.copy(cache)
    copied.layers = [_copy_layer(layer) for layer in cache.layers]
    return copied


def is_recurrent(cache: Cache) -> bool:
    """Whether some layer has a recurrent state rather than keys and values of every position."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def attends(cache: Cache) -> bool:
    """Whether some layer is attention."""
    return any(isinstance(layer, DynamicLayer) for layer in cache.layers)


def has_window(cache: Cache) -> bool:
    """Whether some layer has a sliding window, in which padding counts."""
    return any(isinstance(layer, DynamicSlidingWindowLayer) for layer in cache.layers)


def attends_to_everything(cache: Cache) -> bool:
    """Whether every layer is attention over all past positions: no window, no recurrent state."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def keep_where(cache: Cache, moved: Tensor, before: Cache) -> None:
    """Restore the recurrent states from `before` for the sequences with `moved` (B,) False."""
    for layer, old in zip(cache.layers, before.layers, strict=True):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for name in ("conv_states", "recurrent_states"):
                states, previous = getattr(layer, name), getattr(old, name)
                for key, state in states.items():
                    if state is not None and previous[key] is not None:
                        rows = moved.view(-1, *[1] * (state.ndim - 1))
                        states[key] = torch.where(rows, state, previous[key])


@dataclass(frozen=True)
class CacheState:
    """A transformers cache, its number of positions, and which of them are no padding.

    `real` (B, length) is None without padding.
    """

    cache: Cache
    batch: int
    length: int = 0
    real: Tensor | None = None

    @classmethod
    def empty(cls, config: Any, batch: int) -> CacheState:
        return cls(DynamicCache(config=config), batch)

    def clone(self) -> CacheState:
        """An independent copy."""
        return replace(self, cache=copy_cache(self.cache))

    def expand(self, n: int) -> CacheState:
        """Each sequence repeated n times, next to each other."""
        cache, device = copy_cache(self.cache), self.real.device if self.real is not None else None
        cache.reorder_cache(torch.arange(self.batch, device=device).repeat_interleave(n))  # pyright: ignore[reportArgumentType]
        real = None if self.real is None else self.real.repeat_interleave(n, 0)
        return CacheState(cache, self.batch * n, self.length, real)

    @property
    def nbytes(self) -> int:
        layers = (_nbytes(vars(layer)) for layer in self.cache.layers)
        return sum(layers) + (0 if self.real is None else self.real.nbytes)

    def to_tensors(self) -> dict[str, Tensor]:
        """Those of `hf_state_tensors.cache_tensors`, `length`, and `real` if there is padding."""
        tensors = cache_tensors(self.cache)
        tensors["length"] = torch.full((self.batch,), self.length)
        return tensors if self.real is None else {**tensors, "real": self.real}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Any, like: CacheState) -> CacheState:
        """The inverse of `to_tensors`; `like` is a state after one position of one sequence.

        Raises `UserError` for tensors that no state of the model has.
        """
        length = length_of(tensors.get("length"))
        state, expected = cls.empty(config, 1), cache_tensors(like.cache, length)
        expected["length"] = torch.full((1,), length)
        if "real" in tensors:
            device = next(iter(expected.values())).device
            expected["real"] = torch.ones(1, 1, dtype=torch.bool, device=device).expand(1, length)
        checked = check_state_tensors(tensors, expected)
        fill_cache(state.cache, checked)
        return replace(state, batch=len(checked["length"]), length=length, real=checked.get("real"))

    def attended(self, x: Tensor, real: Tensor | None) -> Tensor | None:
        """Mask (B, length + T) of the positions of the past and of x (B, T, M) that are no padding; None if all are."""
        if self.real is None and real is None:
            return None
        ones = x.new_ones(x.shape[0], max(self.length, x.shape[1]), dtype=torch.bool)
        past = ones[:, : self.length] if self.real is None else self.real
        return torch.cat([past, ones[:, : x.shape[1]] if real is None else real], dim=1)
