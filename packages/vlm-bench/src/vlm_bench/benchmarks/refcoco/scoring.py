"""RefCOCO: the box in an answer, and whether it overlaps the right one by half (Acc@0.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

_NUMBER = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_BRACKETS = re.compile(rf"\[{','.join([_NUMBER] * 4)}\]")
_CORNERS = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
_QWEN, _THOUSANDTHS = 999, 1000
THRESHOLD = 0.5
How = Literal["fractions", "integers", "no box", "not a box of the image"]
Frame = Literal["image", "square"]


class Box(NamedTuple):
    """Left, top, right and bottom edge, as fractions of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


def parse(text: str) -> tuple[Box | None, How]:
    """The first box of an answer, and how it was read. The forms, with any text around them:

    - `[x1, y1, x2, y2]` with fractions from 0 to 1, as LLaVA, Shikra and Cobra write boxes,
    - the same with whole numbers from 0 to 1000, in thousandths, as InternVL,
    - `(x1,y1),(x2,y2)` with fractions, or with whole numbers from 0 to 999, as Qwen-VL (divided by 999, as its script).

    A box with other numbers, or without an area (x1 >= x2 or y1 >= y2), is none.
    """
    if found := _BRACKETS.search(text):
        whole = _THOUSANDTHS
    elif found := _CORNERS.search(text):
        whole = _QWEN
    else:
        return None, "no box"
    numbers = [float(number) for number in found.groups()]
    fractions = all(0 <= number <= 1 for number in numbers)
    integers = not fractions and all(0 <= number <= whole and number.is_integer() for number in numbers)
    box = Box(*(numbers if fractions else [number / whole for number in numbers]))
    if not (fractions or integers) or not box.area:
        return None, "not a box of the image"
    return box, "fractions" if fractions else "integers"


def in_image(box: Box, size: Sequence[float]) -> Box:
    """A box relative to the image of (width, height) `size` padded to a square, as one relative to the image."""
    side = max(size)
    edges = (
        (edge * side - (side - length) / 2) / length for edge, length in zip(box, (*size, *size), strict=True)
    )
    return Box(*edges)


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 if neither has an area."""
    common = Box(*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])).area
    union = first.area + second.area - common
    return common / union if union else 0.0
