"""The value that an image or a video gives the model, and the joined order of several images' tokens.

Shapes: V views of an image, N views of all images, L tokens of a view, P positions in the sequence, M model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageViews:
    """The V views of one image or video: pixels (V, 3, h, w) or, already encoded, features (V, H, W, D).

    `order` (P,) are the rows of the flattened view tokens (V·L, M) that the language model gets, in order; the index
    V·L is the connector's `image_newline`. None: all tokens, view after view. With an order, `view_tokens` is L.
    """

    pixels: Tensor | None = None
    order: Tensor | None = None
    features: Tensor | None = None
    view_tokens: int | None = None

    def __post_init__(self) -> None:
        assert (self.pixels is None) != (self.features is None), "pixels or features"
        assert (self.order is None) == (self.view_tokens is None), "an order counts tokens of a view"

    @property
    def values(self) -> Tensor:
        """Pixels or features, one row per view."""
        values = self.features if self.pixels is None else self.pixels
        assert values is not None
        return values

    def __len__(self) -> int:
        """Number of views."""
        return len(self.values)

    def positions(self, view_tokens: int) -> int:
        """Number of positions in the sequence, P, if each view has so many tokens."""
        return len(self) * view_tokens if self.order is None else len(self.order)


ImageInput = Tensor | ImageViews
"""An image as the model takes it: its views, or the pixels (3, h, w) or features (H, W, D) of its only view."""


def view_values(image: ImageInput) -> list[Tensor]:
    """The pixels (3, h, w), or features (H, W, D), of each view."""
    return list(image.values) if isinstance(image, ImageViews) else [image]


def joined_order(
    images: Sequence[ImageInput], tokens: int | None = None, slots: Sequence[int] | None = None
) -> Tensor | None:
    """The order (P,) of several images as one index of their flattened view tokens (N·L, M); N·L is the newline.

    `tokens` is L, by default that of the images' orders; None without any. With `slots`, the order is that of
    `images[slots[0]]`, `images[slots[1]]`, …: an image may have several places.
    """
    known = {image.view_tokens for image in images if isinstance(image, ImageViews)} - {None}
    tokens = next(iter(known), None) if tokens is None else tokens
    if tokens is None:
        return None
    assert known <= {tokens}, "images of one batch have views of one size"
    counts = [tokens * (len(image) if isinstance(image, ImageViews) else 1) for image in images]
    orders, start = [], 0
    for image, count in zip(images, counts, strict=True):
        own = image.order if isinstance(image, ImageViews) else None
        own = torch.arange(count) if own is None else own
        orders.append(torch.where(own == count, sum(counts), own + start))
        start += count
    return torch.cat(orders if slots is None else [orders[slot] for slot in slots])


def image_newline(connector: nn.Module) -> nn.Parameter | None:
    """The connector's learned embedding (M,) of the end of a row of patches; None if it has none."""
    return connector._parameters.get("image_newline")


def add_image_newline(connector: nn.Module, width: int) -> None:
    """Give the connector an `image_newline` (M,), initialised as LLaVA-NeXT's: normal, with deviation 1/√M."""
    like = next(connector.parameters(), torch.empty(0))
    values = torch.randn(width, dtype=like.dtype, device=like.device) / width**0.5
    connector.register_parameter("image_newline", nn.Parameter(values))
