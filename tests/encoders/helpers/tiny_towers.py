"""Encoder configs so small that a test can build them many times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vlm_encoders import OpenClipConfig, TimmConfig, TransformersConfig

VIT_ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
TINY_TIMM: dict[str, dict[str, Any]] = {
    "vit": {"model": "vit_tiny_patch16_224", "model_args": VIT_ARGS},
    "siglip": {"model": "vit_base_patch16_siglip_224", "model_args": VIT_ARGS},
    "clip": {
        "model": "vit_base_patch16_clip_224",
        "model_args": VIT_ARGS,
        "layer": -1,
        "activation": "gelu",
    },
    "dinov2_registers": {"model": "vit_small_patch14_reg4_dinov2", "model_args": VIT_ARGS, "layer": 1},
    "eva": {"model": "eva02_tiny_patch14_224", "model_args": {**VIT_ARGS, "embed_dim": 32}},
    "cnn": {"model": "test_efficientnet", "image_size": 48},
    "cnn_stage": {"model": "test_resnet", "image_size": 48, "layer": 2},
    "convnext": {"model": "test_convnext", "image_size": 64},
    "naflex": {
        "model": "naflexvit_base_patch16_siglip",
        "model_args": {k: v for k, v in VIT_ARGS.items() if k != "img_size"},
        "image_size": 32,
    },
}

VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {**VISION, "vocab_size": 64}
del TEXT["image_size"], TEXT["patch_size"]
_DINO = {**VISION, "mlp_ratio": 2}
_FREE = {**{k: v for k, v in VISION.items() if k != "image_size"}, "num_patches": 16}
TINY_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip", "vision_config": VISION, "text_config": TEXT},
    "clip_vision_model": {"model_type": "clip_vision_model", **VISION},
    "siglip": {"model_type": "siglip", "vision_config": VISION, "text_config": TEXT},
    "siglip2_free_aspect": {"model_type": "siglip2", "vision_config": _FREE, "text_config": TEXT},
    "dinov2": {"model_type": "dinov2", **_DINO},
    "dinov2_registers": {"model_type": "dinov2_with_registers", "num_register_tokens": 3, **_DINO},
    "vit": {"model_type": "vit", **VISION},
    "sam": {
        "model_type": "sam_vision_model",
        **VISION,
        "mlp_dim": 24,
        "window_size": 2,
        "output_channels": 8,
    },
    "swin": {
        "model_type": "swin",
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "image_size": 32,
        "patch_size": 4,
        "window_size": 2,
    },
    "convnext": {
        "model_type": "convnext",
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "image_size": 64,
    },
}

TINY_OPEN_CLIP: dict[str, dict[str, Any]] = {
    "vit": {"width": 16, "layers": 3, "head_width": 8, "patch_size": 8, "image_size": 32},
    "pooled": {
        "width": 16,
        "layers": 3,
        "head_width": 8,
        "patch_size": 8,
        "image_size": 32,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 2,
    },
    "resnet": {"width": 8, "layers": [1, 1, 1, 1], "head_width": 8, "image_size": 64},
    "timm": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "", "image_size": 160},
}


def tiny_timm(name: str, **changes: Any) -> TimmConfig:
    return TimmConfig(**{**TINY_TIMM[name], **changes})


def tiny_transformers(name: str, folder: Path, **changes: Any) -> TransformersConfig:
    """A local folder with the two small files of a hub repository, and no weights."""
    _write(folder / "config.json", TINY_TRANSFORMERS[name])
    _write(folder / "preprocessor_config.json", {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]})
    return TransformersConfig(model=str(folder), **changes)


def tiny_open_clip(name: str, folder: Path, **changes: Any) -> OpenClipConfig:
    """A local folder in open_clip's layout, without weights."""
    text = {"width": 16, "heads": 2, "layers": 1, "vocab_size": 64, "context_length": 8}
    model = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": TINY_OPEN_CLIP[name], "text_cfg": text}
    _write(folder / "open_clip_config.json", {"model_cfg": model})
    return OpenClipConfig(model=f"local-dir:{folder}", **changes)


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def code_that_touches(path: Path) -> Any:
    """An object that, unpickled by a careless reader, creates the file `path`."""
    return _Touch(path)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_json(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def meta(config: Any, **changes: Any) -> Any:
    with torch.device("meta"):
        return config.model_copy(update=changes).build(weights=False)
