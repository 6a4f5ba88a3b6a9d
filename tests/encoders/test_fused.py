"""Fused towers: features side by side, one picture, and faults named with the tower they belong to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from tiny_towers import tiny_timm, tiny_transformers
from torch import Tensor, nn

from vlm_core.errors import SpecError, UserError
from vlm_core.interfaces import Encoder
from vlm_core.model_folder.assemble import build, load, save, versions
from vlm_core.plugins.config import EncoderConfig
from vlm_core.spec.spec import Spec, json_schema, load_spec
from vlm_encoders import FusedConfig, TimmConfig

SPEC = """\
encoder:
  type: fused
  towers:
    - {type: timm, model: vit_tiny_patch16_224}
    - type: timm
      model: test_vit
connector: {type: mlp}
llm: {type: mamba, d_model: 16, n_layer: 1, vocab_size: 304}
"""
NESTED = """\
    - type: fused
      towers:
        - {type: timm, mdel: x}
        - {type: timm, model: x}"""


class MeanEncoder(Encoder):
    """A tower that knows nothing of this package: the mean colour of each 8×8 patch, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.image_size, self.scale = 3, (32, 32), nn.Parameter(torch.ones(3))

    def transform(self, image: Image.Image) -> Tensor:
        raise AssertionError("only the first tower makes the picture")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // 8, width // 8

    def forward(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixel_values, 8).permute(0, 2, 3, 1) * self.scale


class MeanConfig(EncoderConfig):
    type: Literal["mean"] = "mean"

    def build(self, *, weights: bool = True, assets: Path | None = None) -> Encoder:
        return MeanEncoder()


@torch.no_grad()
def test_features_of_all_towers_side_by_side() -> None:
    """Constants differ between the towers: each normalises the same pixels for itself."""
    configs = [tiny_timm("siglip"), tiny_timm("dinov2_registers"), MeanConfig()]
    fused = FusedConfig(towers=configs).build()
    pixels = fused.transform(Image.radial_gradient("L").convert("RGB"))[None]
    found = fused(pixels).split([16, 16, 3], dim=-1)
    assert fused.dim == 35
    for i, part in enumerate(found):
        assert torch.equal(part, fused.get_submodule(f"towers.{i}")(pixels))
    means = [fused.get_buffer(f"towers.{i}.mean").flatten().tolist() for i in (0, 1)]
    assert means == [pytest.approx([0.5] * 3), pytest.approx([0.485, 0.456, 0.406])]


def test_dinov2_with_siglip_as_cobra() -> None:
    dinov2 = TimmConfig(model="vit_large_patch14_reg4_dinov2.lvd142m", pretrained=True, image_size=384)
    config = FusedConfig(towers=[dinov2, TimmConfig(model="vit_so400m_patch14_siglip_384", pretrained=True)])
    with torch.device("meta"):
        fused = config.build(weights=False)
        features = fused(torch.zeros(1, 3, 384, 384))
    assert features.shape == (1, 27, 27, 1024 + 1152)
    assert [len(fused.get_submodule(f"towers.{i}.model.blocks")) for i in (0, 1)] == [23, 26]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 64}, r"tower 1 \(timm .*\) takes 32×32 pixels and tower 2 .* 64×64.*same image_size"),
        (
            {"model_args": {"patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}, "image_size": 32},
            "a grid of 4×4 patches and tower 2 .* one of 2×2",
        ),
        (
            {"resize_mode": "pad"},
            "wants resize_mode: resize .* tower 2 .* resize_mode: pad .*same resize_mode and",
        ),
        ({"interpolation": "bilinear"}, "interpolation: bicubic and tower 2 .* interpolation: bilinear"),
        ({"layer": 9}, r"fused: tower 2 \(timm vit_tiny_patch16_224\): layer 9 does not exist"),
    ],
)
def test_towers_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FusedConfig(towers=[tiny_timm("vit"), tiny_timm("vit", **changes)]).build(weights=False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "model: test_vit",
            "modle: test_vit",
            "s.yaml:6: encoder.towers.1.modle: unknown key; possible: .*model, .*did you mean 'model'",
        ),
        (
            "- type: timm",
            "- type: tmm",
            "s.yaml:5: encoder.towers.1.type: unknown encoder 'tmm'; possible: .*fused.*did you mean 'timm'",
        ),
        ("- type: timm\n      ", "- ", "s.yaml:5: encoder.towers.1: expected a mapping with a type"),
        (
            "model: test_vit",
            "model: test_vit\n      layer: two",
            "s.yaml:7: encoder.towers.1.layer: got 'two'",
        ),
        ("    - type: timm\n      model: test_vit\n", "", "s.yaml:3: encoder.towers: .*at least 2 items"),
        (
            "    - type: timm\n      model: test_vit",
            NESTED,
            "s.yaml:7: encoder.towers.1.towers.0.mdel: unknown key",
        ),
    ],
)
def test_faults_of_a_tower_have_line_and_path(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SPEC
    (tmp_path / "s.yaml").write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError, match=message):
        load_spec(tmp_path / "s.yaml")


def test_schema_lets_towers_be_any_encoder() -> None:
    (fused,) = [e for e in json_schema()["properties"]["encoder"]["oneOf"] if "towers" in e["properties"]]
    item = fused["properties"]["towers"]["items"]
    assert item["required"] == ["type"]
    assert {"timm", "fused"} <= set(item["properties"]["type"]["enum"])
    assert "additionalProperties" not in item


@torch.no_grad()
def test_a_model_folder_holds_every_tower(tiny_spec: dict[str, Any], tmp_path: Path) -> None:
    """Each tower has its small files; the folder that one came from may be gone."""
    hub = tmp_path / "hub"
    towers = [tiny_timm("siglip"), tiny_transformers("clip", hub, image_size=32)]
    fused = FusedConfig(towers=towers)
    spec = Spec.model_validate({**tiny_spec, "encoder": fused})
    found = {"torch", "vlm-core", "vlm-encoders", "vlm-connectors", "vlm-llms"}
    assert versions(spec).keys() == found
    model = build(spec, weights=False)
    save(model, spec, tmp_path / "folder")
    shutil.rmtree(hub)
    names = sorted(
        p.relative_to(tmp_path / "folder").as_posix() for p in (tmp_path / "folder").glob("encoder/*/*")
    )
    assert names == ["encoder/0/timm.json", "encoder/1/config.json", "encoder/1/preprocessor_config.json"]
    again, spec_again = load(tmp_path / "folder")
    assert spec_again.encoder.label() == f"fused (timm vit_base_patch16_siglip_224 + transformers {hub})"
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.encode_images(pixels), model.encode_images(pixels))
