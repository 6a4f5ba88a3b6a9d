"""Chooses the numbers of a recipe from the amount of data."""

from __future__ import annotations

from typing import NamedTuple

from vlm_train.init.sizes import Size

EPOCHS, MIN_STEPS = 15, 100
"""Passes over the data when a small model is trained from scratch, and the fewest steps."""
LLAVA_BATCH = 128
STRIDE = 32
"""Pixels of a patch of the small encoder."""
TEXT_TOKENS = 512
"""Room for the text of a row with videos."""
MIN_GROUPS = 10
"""With fewer different images none are held out by default: a score would rest on one or two."""
_HELD_OUT_GROUPS = 1000


class Recipe(NamedTuple):
    """Batch size and passes over the data; `side` of images in pixels, 0 for that of the encoder."""

    batch_size: int
    epochs: int
    side: int


def recipe(size: Size, rows: int, side: int) -> Recipe:
    """The recipe for `rows` training rows with images of `side` pixels."""
    if size.pretrained:
        batch_size = _power_of_two(rows // 50, 8, LLAVA_BATCH)
        return Recipe(batch_size, 1 if rows >= 10_000 else 3, 0)
    batch_size = min(_power_of_two(rows // 10, 16, 64), rows)
    per_epoch = rows / batch_size
    epochs = min(max(EPOCHS, MIN_STEPS / per_epoch), size.max_steps / per_epoch)
    return Recipe(batch_size, max(1, round(epochs)), _image_size(side, size.max_side))


def max_length(size: Size, side: int, views: int) -> int:
    """Positions that a row of so many views needs, in whole thousands of 1024, with images of `side` pixels."""
    tokens = size.view_tokens or (side // STRIDE) ** 2
    return -(-(views * tokens + TEXT_TOKENS) // 1024) * 1024


def held_out_share(groups: int) -> float:
    """The default share of `groups` different images to hold out: a quarter of few, a thousand of many."""
    if groups < MIN_GROUPS:
        return 0.0
    if groups < 100:
        return 0.25
    return 0.1 if groups <= 10 * _HELD_OUT_GROUPS else float(f"{_HELD_OUT_GROUPS / groups:.1g}")


def _power_of_two(number: int, least: int, most: int) -> int:
    """The largest power of two that is at most `number`, from `least` to `most`."""
    return min(max(least, 1 << max(0, number.bit_length() - 1)), most)


def _image_size(side: int, most: int) -> int:
    """A multiple of the encoder's stride near `side`, from 96 to `most`."""
    return min(max(3 * STRIDE, round(side / STRIDE) * STRIDE), most)
