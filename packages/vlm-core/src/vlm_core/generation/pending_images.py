"""Images for the next question of a saved conversation as tensors by name, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable
from vlm_core.model import VLM
from vlm_core.states.manifest import SavedImage
from vlm_core.views.image_views import ImageInput, ImageViews, image_newline


def saved_image(image: ImageInput) -> SavedImage:
    """What the manifest says of an image; its tensors are those of `image_tensors`."""
    if isinstance(image, Tensor):
        return SavedImage()
    return SavedImage(views=True, view_tokens=image.view_tokens)


def image_tensors(images: Sequence[ImageInput]) -> dict[str, Tensor]:
    """Pixels as `image.0`, the order of its views as `image.0.order`."""
    tensors = {}
    for i, image in enumerate(images):
        views = image if isinstance(image, ImageViews) else ImageViews(image)
        tensors[f"image.{i}"] = views.values
        if views.order is not None:
            tensors[f"image.{i}.order"] = views.order
    return tensors


def images_of(
    tensors: Mapping[str, Tensor], saved: Sequence[SavedImage], model: VLM, path: object
) -> list[ImageInput]:
    """The inverse, from the tensors of a file that are no state; raises `UserError` for any that are no images."""
    rest, images = dict(tensors), []
    for i, facts in enumerate(saved):
        pixels, order = rest.pop(f"image.{i}", None), rest.pop(f"image.{i}.order", None)
        if pixels is None or not _is_image(pixels, order, facts, model):
            raise UserError(f"{path}: damaged: 'image.{i}' is missing, or no image as this model takes it")
        images.append(ImageViews(pixels, order, view_tokens=facts.view_tokens) if facts.views else pixels)
    if rest:
        raise UserError(f"{path}: damaged: unexpected tensor {printable(next(iter(rest)), 80)!r}")
    return images


def _is_image(pixels: Tensor, order: Tensor | None, facts: SavedImage, model: VLM) -> bool:
    """Whether pixels and order are those of an image with these facts, whose views have the encoder's size."""
    size = pixels.shape[1:] if facts.views else pixels.shape
    if tuple(size) != (3, *model.encoder.image_size) or not pixels.is_floating_point() or not len(pixels):
        return False
    if order is None or facts.view_tokens is None:
        return order is None and facts.view_tokens is None
    tokens = model.image_tokens(pixels[0]) if not pixels.is_meta else facts.view_tokens
    if tokens != facts.view_tokens or order.ndim != 1 or order.is_floating_point() or not len(order):
        return False
    rows = len(pixels) * tokens + (image_newline(model.connector) is not None)
    return order.is_meta or 0 <= int(order.min()) <= int(order.max()) < rows
