"""The published towers at full size, on the meta device: width, grid and parameters agree between libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_core.interfaces import parameter_count
from vlm_core.plugins.config import EncoderConfig
from vlm_encoders import OpenClipConfig, TimmConfig, TransformersConfig

L14 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
TOWERS: dict[str, tuple[int, int, int, list[Any]]] = {
    "CLIP ViT-L/14-336": (
        1024,
        336,
        24,
        [
            {"type": "open-clip", "model": "ViT-L-14-336", "pretrained": "openai"},
            {"type": "timm", "model": "vit_large_patch14_clip_quickgelu_336.openai"},
            {"model_type": "clip_vision_model", **L14, "image_size": 336, "patch_size": 14},
        ],
    ),
    "SigLIP SO400M/14-384": (
        1152,
        384,
        27,
        [
            {"type": "timm", "model": "vit_so400m_patch14_siglip_384.webli"},
            {"type": "open-clip", "model": "ViT-SO400M-14-SigLIP-384", "pretrained": "webli"},
            {"model_type": "siglip_vision_model", **SO400M, "image_size": 384, "patch_size": 14},
        ],
    ),
    "SigLIP 2 SO400M/14-378": (
        1152,
        378,
        27,
        [
            {"type": "timm", "model": "vit_so400m_patch14_siglip_378.v2_webli"},
            {"type": "open-clip", "model": "ViT-SO400M-14-SigLIP2-378", "pretrained": "webli"},
        ],
    ),
    "SigLIP 2 SO400M/16 NaFlex": (
        1152,
        256,
        16,
        [
            {"type": "timm", "model": "naflexvit_so400m_patch16_siglip.v2_webli", "image_size": 256},
            {"model_type": "siglip2_vision_model", **SO400M, "num_patches": 256, "patch_size": 16},
        ],
    ),
    "DINOv2-L/14 with registers": (
        1024,
        518,
        37,
        [
            {"type": "timm", "model": "vit_large_patch14_reg4_dinov2.lvd142m"},
        ],
    ),
    "EVA-02 CLIP L/14-336": (
        1024,
        336,
        24,
        [
            {"type": "timm", "model": "eva02_large_patch14_clip_336.merged2b"},
            {"type": "open-clip", "model": "EVA02-L-14-336", "pretrained": "merged2b_s6b_b61k"},
        ],
    ),
}
"""Width, pixels a side, patches a side, and the routes to it; without `type`: transformers' config.json."""


def config(route: dict[str, Any], folder: Path) -> EncoderConfig:
    if "type" in route:
        return {"timm": TimmConfig, "open-clip": OpenClipConfig}[route["type"]].model_validate(route)
    (folder / "config.json").write_text(json.dumps(route))
    return TransformersConfig(model=str(folder), mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_published_tower(name: str, tmp_path: Path) -> None:
    dim, side, patches, routes = TOWERS[name]
    counts = []
    for route in routes:
        with torch.device("meta"):
            tower = config(route, tmp_path).build(weights=False)
            assert tower(torch.zeros(1, 3, side, side)).shape == (1, patches, patches, dim), route
        assert (tower.dim, tower.image_size, tower.grid(side, side)) == (
            dim,
            (side, side),
            (patches, patches),
        )
        counts.append(parameter_count(tower))
    assert len(set(counts)) == 1, counts
