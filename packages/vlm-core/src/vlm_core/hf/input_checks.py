"""Checks of `forward`'s tensors: a wrong shape would be broadcast, a wrong value misinterpreted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import PADDING
from vlm_core.model import VLM
from vlm_core.views.image_views import image_newline


def check_shapes(x: Tensor, dims: int, image_mask: Tensor | None, pixel_values: Any) -> None:
    """Raise `UserError` unless x is ids (B, T) or embeddings (B, T, M), image_mask (B, T), pixels (N, 3, h, w)."""
    if x.ndim != dims:
        expected = "input_ids (batch, positions)" if dims == 2 else "inputs_embeds (batch, positions, width)"
        raise UserError(f"expected {expected}, got the shape {tuple(x.shape)}")
    check_rows("image_mask", image_mask, x)
    if pixel_values is None:
        return
    if not isinstance(pixel_values, Tensor) or not pixel_values.is_floating_point():
        kind = pixel_values.dtype if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
        raise UserError(
            f"pixel_values must be a tensor of floats from 0 to 1, not {kind}; the processor makes it"
        )
    if pixel_values.ndim not in (4, 5):
        raise UserError(
            f"pixel_values: expected (images, channels, height, width), got {tuple(pixel_values.shape)}"
        )


def image_embeds(model: VLM, image_mask: Tensor, pixel_values: Tensor, image_order: Tensor | None) -> Tensor:
    """Embeddings (N, L, M) or (1, P, M) of the image positions.

    `image_order` (B, T) has, at image positions, the row among the flattened view tokens. Raises `UserError` if they
    are not as many as `image_mask` marks, or if an order is out of range.
    """
    pixels = pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values  # (B, n, 3, h, w)
    embeds = model.encode_images(pixels)
    marked, (views, tokens) = int(image_mask.sum()), embeds.shape[:2]
    if image_order is not None:
        check_rows("image_order", image_order, image_mask)
        order, end = image_order[image_mask.bool()], views * tokens
        end += image_newline(model.connector) is not None
        if marked and not 0 <= int(order.min()) <= int(order.max()) < end:
            raise UserError(f"image_order: expected 0 to {end - 1}, got others; the processor makes it")
        return model.arrange(embeds, order)
    if marked != views * tokens:
        raise UserError(
            f"image_mask marks {marked} positions, but {views} images take {tokens} each; don't truncate a sequence "
            "inside an image, and pass the processor's image_order if it makes one"
        )
    return embeds


def check_rows(name: str, tensor: Tensor | None, x: Tensor) -> None:
    """Raise `UserError` unless `tensor` is (B, T) as x is."""
    if tensor is not None and tensor.shape != x.shape[:2]:
        raise UserError(
            f"{name}: expected the shape {tuple(x.shape[:2])} of the ids, got {tuple(tensor.shape)}"
        )


def logit_positions(logits_to_keep: int | Tensor) -> Any:
    """An index of the positions whose logits are computed: the last `logits_to_keep`, or all for 0."""
    if isinstance(logits_to_keep, Tensor):
        return logits_to_keep
    if isinstance(logits_to_keep, bool) or logits_to_keep < 0:
        raise UserError(
            f"logits_to_keep {logits_to_keep!r}: expected a number of positions, 0 for all of them"
        )
    return slice(-logits_to_keep, None)


def segments_of(mask: Tensor | None, x: Tensor, past: int) -> Tensor | None:
    """A mask (B, T) of ones and zeros as segments (B, T); None without padding.

    It may also cover the `past` positions of the cache. Raises `UserError` for another shape or value: an additive
    attention mask has 0 where this one has 1.
    """
    if mask is None:
        return None
    rows, length = x.shape[:2]
    if mask.shape not in ((rows, length), (rows, past + length)):
        raise UserError(
            f"attention_mask: expected the shape {(rows, length)} of the ids, got {tuple(mask.shape)}"
        )
    mask = mask[:, -length:]
    if bool((mask == 1).all()):
        return None
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError("attention_mask: expected 1 at tokens and 0 at padding, got other values")
    return torch.where(mask.bool(), 0, PADDING)
