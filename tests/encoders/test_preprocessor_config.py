"""Settings of transformers' image processors: honoured as facts of the weights, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_towers import meta, tiny_transformers, write_json

from vlm_core.errors import UserError
from vlm_encoders.weights.preprocessor_config import REFUSED, read_values


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [255] * 3},
            {"mean": [0.5] * 3, "std": [1.0] * 3},
        ),
        (
            {"rescale_factor": 2 / 255, "image_mean": [1] * 3, "image_std": [1] * 3},
            {"mean": [0.5] * 3, "std": [0.5] * 3},
        ),
        ({"do_normalize": False, "image_mean": [0.5] * 3}, {"mean": [0.0] * 3, "std": [1.0] * 3}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"size": 224}, {"resize_mode": "resize", "image_size": (224, 224)}),
        ({"size": {"height": 32, "width": 64}}, {"resize_mode": "resize", "image_size": (32, 64)}),
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
            },
            {"resize_mode": "crop", "crop_pct": 0.875, "image_size": (224, 224)},
        ),
        (
            {"size": 224, "do_center_crop": True},
            {"resize_mode": "crop", "crop_pct": 1.0, "image_size": (224, 224)},
        ),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
            {"resize_mode": "crop", "crop_pct": 0.875, "image_size": (224, 224)},
        ),
        (
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875},
            {"resize_mode": "resize", "image_size": (384, 384)},
        ),
    ],
)
def test_settings_of_transformers(content: dict[str, Any], facts: dict[str, Any]) -> None:
    found = read_values(content, "p.json")
    assert found.keys() == facts.keys()
    assert all(found[key] == (pytest.approx(v) if key in ("mean", "std") else v) for key, v in facts.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"do_flip_channel_order": True},
            "do_flip_channel_order: true asks for channels in the order B, G, R",
        ),
        ({"do_sharpen": True}, "do_sharpen: true asks for an unknown step"),
        ({"resample": 9}, "resample 9 is none of Pillow's filters"),
        ({"image_mean": [0.5]}, r"image_mean is \[0\.5\]; expected three numbers"),
        ({"rescale_factor": 0}, "rescale_factor 0: expected a number above 0"),
        ({"rescale_factor": None}, "rescale_factor None: expected a number above 0"),
        ({"image_std": [0, 1, 1]}, r"image_std is \[0, 1, 1\]; expected numbers above 0"),
        ({"size": {"height": "x"}}, "expected a number of pixels"),
    ],
)
def test_settings_that_no_encoder_honours(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_values(content, "p.json")


@pytest.mark.parametrize(
    "content",
    [{"do_resize": False}, {"do_pad": True}, {"size": {"shortest_edge": 9}}, {"size": {"longest_edge": 9}}],
)
def test_resizing_that_needs_a_fit_in_the_spec(content: dict[str, Any], tmp_path: Path) -> None:
    assert REFUSED in read_values(content, "p.json")
    config = tiny_transformers("clip", tmp_path)
    write_json(tmp_path, preprocessor_config={"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **content})
    with pytest.raises(UserError, match="give resize_mode in the spec: resize, pad or crop"):
        meta(config)
    assert meta(config, resize_mode="pad").preprocessing.resize_mode == "pad"


def test_sizes_that_differ_in_a_folder_of_transformers(tmp_path: Path) -> None:
    config = tiny_transformers("clip", tmp_path)
    write_json(tmp_path, preprocessor_config={"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 48})
    with pytest.raises(
        UserError, match=r"\(config\.json\) says image_size \(32, 32\).*\(48, 48\); give image_size"
    ):
        meta(config)
    assert meta(config, image_size=48).image_size == (48, 48)
