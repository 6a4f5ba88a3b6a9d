"""How many views and positions images have by a rule: of the smallest, the largest and a usual image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vlm_core.io.images import MAX_ASPECT
from vlm_core.views.image_processor import ImageProcessor
from vlm_core.views.layout import ViewLayout

USUAL = 640, 480
"""(width, height) of a usual image, that of most photographs of COCO."""
_RATIOS = 80
_SCALES = 0.25, 0.5, 1, 2, 4, 8
"""Longer sides of the sizes that are looked at, in sides of a tile."""


@dataclass(frozen=True)
class ViewCounts:
    """Layouts of an image with the fewest positions, of a usual one, and of one with the most.

    `densest` has the most views for its positions: `unpad` leaves out tokens that were computed.
    """

    fewest: ViewLayout
    usual: ViewLayout
    most: ViewLayout
    densest: ViewLayout

    def most_views(self, positions: int) -> int:
        """An upper bound of the views of samples with so many positions."""
        return math.ceil(positions * self.densest.views / self.densest.positions)


def view_counts(processor: ImageProcessor) -> ViewCounts:
    """The view counts of a rule, over sizes of every aspect ratio that is read."""
    layouts = [processor.layout(size) for size in _sizes(processor)]
    usual = processor.layout(USUAL)
    layouts = [layout for layout in [*layouts, usual] if layout.positions]
    return ViewCounts(
        min(layouts, key=lambda layout: layout.positions),
        usual,
        max(layouts, key=lambda layout: layout.positions),
        max(layouts, key=lambda layout: layout.views / layout.positions),
    )


def _sizes(processor: ImageProcessor) -> Iterator[tuple[int, int]]:
    """Sizes (width, height): those of each grid, and aspect ratios from 1:200 to 200:1 at several scales."""
    assert processor.rule is not None
    height, width = processor.tile
    for rows, columns in processor.rule.all_grids():
        yield columns * width, rows * height
    for scale in _SCALES:
        longer = max(1, int(scale * max(height, width)))
        for number in range(_RATIOS + 1):
            shorter = max(1, round(longer * MAX_ASPECT ** -(number / _RATIOS)))
            yield longer, shorter
            yield shorter, longer
