"""A transformers cache as tensors by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from vlm_core.errors import UserError

_SUPPORTED = (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
"""Kinds of layers whose tensors are all of their state. A subclass may keep more."""
_RECURRENT = ("conv_states", "recurrent_states")
MAX_LENGTH = 1 << 30
"""Positions of a loaded state; a damaged file must not make masks of any size."""


def cache_tensors(cache: Cache, length: int | None = None) -> dict[str, Tensor]:
    """Tensors of all layers, such as `0.keys` (B, heads, T, width) and `0.conv_states.0` (B, width, W).

    With `length`, keys and values of a cache of one position are views with as many positions as after `length`.
    Raises `UserError` for a kind of layer that keeps more than these.
    """
    tensors: dict[str, Tensor] = {}
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        if type(layer) not in _SUPPORTED:
            raise UserError(
                f"the model keeps a {type(layer).__name__}, whose state this version can't save and load"
            )
        for name in ("keys", "values") if isinstance(layer, DynamicLayer) and layer.is_initialized else ():
            tensor: Any = getattr(layer, name)
            tensors[f"{i}.{name}"] = tensor if length is None else _resized(tensor, layer, length)
        for name in _RECURRENT if isinstance(layer, LinearAttentionCacheLayerMixin) else ():
            states = getattr(layer, name).items()
            tensors.update({f"{i}.{name}.{key}": state for key, state in states if state is not None})
    return tensors


def _resized(tensor: Tensor, layer: DynamicLayer, length: int) -> Tensor:
    """(B, heads, 1, width) with the number of positions that the layer keeps after `length`."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        length = min(length, layer.sliding_window - 1)
    return tensor.expand(*tensor.shape[:-2], length, tensor.shape[-1])


def length_of(tensor: Tensor | None) -> int:
    """The number of positions, from one integer a sequence; raises `UserError` for anything else."""
    if tensor is None or tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise UserError("'length' is missing, or no row of integers")
    lengths = set(tensor.tolist())
    if len(lengths) != 1 or not 0 < (length := int(lengths.pop())) < MAX_LENGTH:
        raise UserError("'length' is not one positive number of positions for all sequences")
    return length


def fill_cache(cache: Cache, tensors: Mapping[str, Tensor]) -> None:
    """Set the tensors of an empty cache, after `check_state_tensors`."""
    length = int(tensors["length"][0])
    layers: list[Any] = cache.layers
    for i, layer in enumerate(layers):
        if (keys := tensors.get(f"{i}.keys")) is not None:
            layer.lazy_initialization(keys, tensors[f"{i}.values"])  # its device and dtype
            layer.keys, layer.values = keys, tensors[f"{i}.values"]
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = length
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for key in range(layer.number_of_states):
                _fill_recurrent(layer, key, *(tensors.get(f"{i}.{name}.{key}") for name in _RECURRENT))


def _fill_recurrent(
    layer: LinearAttentionCacheLayerMixin, key: int, conv: Tensor | None, recurrent: Tensor | None
) -> None:
    if conv is not None:
        layer.lazy_initialization(conv_states=conv, state_idx=key)
        layer.conv_states[key] = conv
    if recurrent is not None:
        layer.lazy_initialization(recurrent_states=recurrent, state_idx=key)
        layer.recurrent_states[key] = recurrent
    layer.has_previous_state[key] = conv is not None or recurrent is not None
