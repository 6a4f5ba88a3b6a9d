"""Tiles and their tokens against transformers' LLaVA-NeXT and InternVL code, which shares none with ours."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches

from vlm_core.views.image_processor import ImageProcessor
from vlm_core.views.rule import LLAVA_NEXT_GRIDS, ViewRule, anyres_grid, dynamic_grid

TILE = 24
PINPOINTS = [[rows * 336, columns * 336] for rows, columns in LLAVA_NEXT_GRIDS]


def sizes(count, least=1, most=3000):
    """Random (height, width), half of them squares, multiples of tiles and other likely ties."""
    draw = random.Random(0)
    for number in range(count):
        if number % 2:
            yield draw.randint(least, most), draw.randint(least, most)
        else:
            side = draw.choice([64, 100, 168, 224, 336, 448, 672])
            yield side * draw.randint(1, 4), side * draw.randint(1, 4)


def test_anyres_chooses_as_llava_next_for_1000_sizes():
    more = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7 // rows + 1))
    for height, width in sizes(1000):
        for grids in (LLAVA_NEXT_GRIDS, more):
            pinpoints = [[rows * 336, columns * 336] for rows, columns in grids]
            expected = select_best_resolution((height, width), pinpoints)
            chosen = anyres_grid(height, width, grids, (336, 336))
            assert (chosen[0] * 336, chosen[1] * 336) == expected


@pytest.mark.parametrize(("fewest", "most"), [(1, 12), (1, 6), (4, 9)])
def test_dynamic_chooses_as_internvl_for_1000_sizes(fewest, most):
    for height, width in sizes(1000):
        columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), fewest, most)
        assert dynamic_grid(height, width, fewest, most, (448, 448)) == (rows, columns), (height, width)


def picture(height, width):
    values = np.random.default_rng(height * 10_000 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    return Image.fromarray(values)


def pixels(image):
    """As an encoder of TILE pixels with resize_mode: resize."""
    image = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def processor(rule, tokens=36, token_grid=(6, 6), fill=(0, 0, 0)):
    return ImageProcessor(pixels, (TILE, TILE), tokens, token_grid, rule, fill=fill)


def test_anyres_tiles_have_the_pixels_of_llava_next():
    size = {"height": TILE, "width": TILE}
    reference = LlavaNextImageProcessorPil(
        size=size,
        crop_size=size,
        image_grid_pinpoints=[[r * TILE, c * TILE] for r, c in LLAVA_NEXT_GRIDS],
        do_normalize=False,
    )
    ours = processor(ViewRule())
    for height, width in sizes(60, least=9, most=150):
        image = picture(height // 4 + 5, width // 4 + 5)
        expected = reference(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal((ours(image).pixels * 255).round(), (expected * 255).round()), image.size


def test_dynamic_tiles_have_the_pixels_of_internvl():
    size = {"height": TILE, "width": TILE}
    reference = GotOcr2ImageProcessorPil(
        size=size, do_normalize=False, crop_to_patches=True, min_patches=1, max_patches=6
    )
    ours = processor(ViewRule(grids=None, tiles=(1, 6), overview="last", pad="none"), fill=None)
    views = set()
    for height, width in sizes(60, least=9, most=150):
        image = picture(height // 4 + 5, width // 4 + 5)
        expected = reference(images=image, return_tensors="pt")["pixel_values"]
        assert torch.equal((ours(image).pixels * 255).round(), (expected * 255).round()), image.size
        views.add(len(expected))
    assert {1, 5, 7} <= views, "a single tile has no overview, 4 and 6 have one"


def packed_by_transformers(features, size, newline):
    """`pack_image_features` for tiles of 336 pixels with 24×24 patches."""
    vision = SimpleNamespace(image_size=336, patch_size=14)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=PINPOINTS))
    packed, lengths = LlavaNextModel.pack_image_features(model, [features], [size], "full", newline)
    return packed[0], int(lengths[0])


@pytest.mark.parametrize("newline", [True, False], ids=["newline", "no newline"])
def test_unpadded_rows_are_those_of_llava_next_for_1000_sizes(newline):
    """`mm_patch_merge_type: spatial_unpad`: the features in order, and their number from the size alone."""
    rule = ViewRule(rows=True, unpad=True, newline=newline)
    ours = ImageProcessor(pixels, (336, 336), 576, (24, 24), rule, fill=(0, 0, 0))
    ending = torch.tensor([-1.0])
    for height, width in sizes(1000, least=20):
        layout = ours.layout((width, height))
        assert layout.views == image_size_to_num_patches((height, width), PINPOINTS, 336)
        features = torch.arange(layout.views * 576.0).view(layout.views, 576, 1)
        expected, length = packed_by_transformers(features, (height, width), ending if newline else None)
        assert ours.image_tokens((width, height)) == length, (height, width)
        rows = torch.cat([features.flatten(0, 1), ending[None]])
        assert torch.equal(rows[layout.order()], expected), (height, width)


def test_flat_and_spatial_are_tiles_and_rows():
    """LLaVA's `flat` keeps the order of the views; `spatial` merges the tiles without unpadding them."""
    assert processor(ViewRule()).layout((50, 50)).order() is None
    layout = processor(ViewRule(rows=True)).layout((100, 100))
    assert layout.grid == (2, 2)
    features = torch.arange(4 * 36).view(2, 2, 6, 6) + 36
    spatial = features.permute(0, 2, 1, 3).flatten()
    assert torch.equal(layout.order(), torch.cat([torch.arange(36), spatial]))


@pytest.mark.parametrize("overview", ["first", "last", None])
def test_the_overview_is_where_the_rule_says(overview):
    image = picture(50, 90)
    views = processor(ViewRule(overview=overview, rows=True))(image)
    layout = processor(ViewRule(overview=overview, rows=True)).layout(image.size)
    assert len(views) == layout.views == layout.grid[0] * layout.grid[1] + (overview is not None)
    if overview is not None:
        at = 0 if overview == "first" else -1
        assert torch.equal(views.pixels[at], pixels(image))
        tokens = torch.arange(36) + (0 if overview == "first" else (layout.views - 1) * 36)
        assert torch.equal(views.order[:36] if overview == "first" else views.order[-36:], tokens)
    assert sorted(views.order.tolist()) == list(range(layout.views * 36)), "each token once"


def test_every_rule_counts_what_its_order_holds():
    for rows, unpad, newline in [
        (True, True, True),
        (True, False, True),
        (True, True, False),
        (False, False, False),
    ]:
        for grids in (None, LLAVA_NEXT_GRIDS):
            ours = processor(ViewRule(grids, rows=rows, unpad=unpad, newline=newline))
            for height, width in sizes(100, least=20):
                layout = ours.layout((width, height))
                order = layout.order()
                assert layout.positions == (layout.views * 36 if order is None else len(order))


def test_a_narrow_image_without_overview_keeps_its_middle():
    """LLaVA-NeXT's rule, which always has an overview, keeps no token of these tiles."""
    rule = ViewRule(((1, 3),), rows=True, unpad=True)
    assert processor(rule).image_tokens((2000, 20)) == 36
    assert processor(replace(rule, overview=None)).image_tokens((2000, 20)) == 2 * 18
