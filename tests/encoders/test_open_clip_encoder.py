"""open_clip towers give open_clip's own intermediates; the text half plays no part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_towers import tiny_open_clip
from torch import Tensor

from vlm_core.errors import UserError
from vlm_encoders import OpenClipConfig


def with_weights(name: str, folder: Path, **changes: Any) -> tuple[OpenClipConfig, Any]:
    config = tiny_open_clip(name, folder)
    whole: Any = open_clip.create_model(config.model).eval()
    save_file(whole.state_dict(), folder / "clip.safetensors")
    return config.model_copy(update={"pretrained": str(folder / "clip.safetensors"), **changes}), whole.visual


def normal(pixels: Tensor) -> Tensor:
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("name", "layer", "index"),
    [
        ("vit", None, 1),
        ("vit", -1, 2),
        ("vit", 0, 0),
        ("pooled", None, 1),
        ("resnet", None, 4),
        ("resnet", 2, 2),
    ],
)
@torch.no_grad()
def test_equals_intermediates(name: str, layer: int | None, index: int, tmp_path: Path) -> None:
    config, whole = with_weights(name, tmp_path, layer=layer)
    tower = config.build()
    pixels = torch.rand(2, 3, *tower.image_size)
    found = whole.forward_intermediates(normal(pixels), indices=[index], intermediates_only=True)
    torch.testing.assert_close(tower(pixels), found["image_intermediates"][0].permute(0, 2, 3, 1))


@torch.no_grad()
def test_timm_inside_open_clip(tmp_path: Path) -> None:
    config, whole = with_weights("timm", tmp_path)
    tower = config.build()
    pixels = torch.rand(1, 3, *tower.image_size)
    index = len(whole.trunk.blocks) - 2
    (expected,) = whole.trunk.forward_intermediates(normal(pixels), indices=[index], intermediates_only=True)
    torch.testing.assert_close(tower(pixels), expected.permute(0, 2, 3, 1))


@torch.no_grad()
def test_another_image_size_resamples_positions(tmp_path: Path) -> None:
    config, _ = with_weights("vit", tmp_path, image_size=48)
    whole: Any = open_clip.create_model(config.model, force_image_size=48).eval()
    open_clip.load_checkpoint(whole, str(config.pretrained))
    pixels = torch.rand(1, 3, 48, 48)
    found = whole.visual.forward_intermediates(normal(pixels), indices=[1], intermediates_only=True)
    torch.testing.assert_close(config.build()(pixels), found["image_intermediates"][0].permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("model", "pretrained", "gelu", "mean"),
    [
        ("ViT-B-32", None, "GELU", 0.48145466),
        ("ViT-B-32", "openai", "QuickGELU", 0.48145466),
        ("ViT-B-16-SigLIP", "webli", "GELU", 0.5),
    ],
)
def test_published_models_on_the_meta_device(
    model: str, pretrained: str | None, gelu: str, mean: float
) -> None:
    """GELU and constants follow the weights' tag, before any weight is there."""
    with torch.device("meta"):
        config = OpenClipConfig(model=model, pretrained=pretrained)
        tower = config.build(weights=False)
        side = tower.image_size[0]
        assert tower(torch.zeros(1, 3, side, side)).shape == (1, *tower.grid(side, side), 768)
    assert {type(m).__name__ for m in tower.modules() if "GELU" in type(m).__name__} == {gelu}
    assert getattr(tower, "_constants")[0][0] == pytest.approx(mean)  # noqa: B009


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "ViT-B-23"}, "open_clip has no model 'ViT-B-23'; nearest: .*ViT-B-32"),
        (
            {"model": "ViT-B-32", "pretrained": "opnai"},
            "opnai is neither a file, a folder nor a tag of ViT-B-32; tags: openai",
        ),
        ({"model": "local-dir:nowhere"}, "the folder holds no open_clip_config.json"),
        ({"model": "hf-hub:nobody/nothing"}, "could not download open_clip's hf-hub:nobody/nothing"),
        ({"model": "ViT-B-32", "layer": 12}, "layer 12 does not exist: this tower has 12 blocks"),
    ],
)
def test_faults_of_the_spec(config: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match=message):
        OpenClipConfig(**config).build()


def test_weights_that_are_not_there_are_told_without_reading_any() -> None:
    config = OpenClipConfig(model="ViT-B-16-SigLIP", pretrained="siglip/none.safetensors")
    with torch.device("meta"), pytest.raises(UserError, match=r"neither a file, a folder nor a tag.*webli"):
        config.build(weights=False)


def test_file_of_another_kind(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors: holds no tensor named visual\."):
        tiny_open_clip("vit", tmp_path, pretrained=str(tmp_path / "a.safetensors")).build()


def test_file_of_another_size(tmp_path: Path) -> None:
    config, _ = with_weights("vit", tmp_path)
    other = tiny_open_clip("resnet", tmp_path, pretrained=config.pretrained)
    with pytest.raises(UserError, match="does not fit open_clip's local-dir"):
        other.build()
