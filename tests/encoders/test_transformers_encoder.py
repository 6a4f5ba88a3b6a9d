"""transformers towers give transformers' own hidden states, CLS and registers left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_towers import TINY_TRANSFORMERS, tiny_transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vlm_core.errors import UserError
from vlm_encoders import TransformersConfig

PREFIX = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov2_registers": 4, "vit": 1, "clip_vision_model": 1}


def with_weights(name: str, folder: Path, **changes: Any) -> tuple[TransformersConfig, Any]:
    """A config whose folder holds random weights, and the whole vision half of the same model."""
    config = tiny_transformers(name, folder, **changes)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder)).eval()
    model.save_pretrained(folder)
    return config, getattr(model, "vision_model", model)


def normal(pixels: Tensor) -> Tensor:
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    return (pixels - mean) / std


@pytest.mark.parametrize("name", PREFIX)
@pytest.mark.parametrize("layer", [None, -1, 0])
@torch.no_grad()
def test_equals_hidden_states(name: str, layer: int | None, tmp_path: Path) -> None:
    config, whole = with_weights(name, tmp_path, layer=layer)
    pixels = torch.rand(2, 3, 32, 32)
    states = whole(normal(pixels), output_hidden_states=True).hidden_states
    assert len(states) == 5
    expected = states[(-2 if layer is None else layer) % 4 + 1][:, PREFIX[name] :]
    torch.testing.assert_close(config.build()(pixels).flatten(1, 2), expected)


@torch.no_grad()
def test_free_aspect_siglip2_equals_hidden_states(tmp_path: Path) -> None:
    """Patches are cut as that model's image processor cuts them: rows, columns, then channels."""
    config, whole = with_weights("siglip2_free_aspect", tmp_path)
    pixels = torch.rand(2, 3, 32, 32)
    images = normal(pixels).permute(0, 2, 3, 1)
    rows = [
        [image[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].reshape(-1) for i in range(4) for j in range(4)]
        for image in images
    ]
    patches = torch.stack([torch.stack(row) for row in rows])
    shapes, mask = torch.tensor([[4, 4]] * 2), torch.ones(2, 16, dtype=torch.long)
    states = whole(patches, mask, shapes, output_hidden_states=True).hidden_states
    torch.testing.assert_close(config.build()(pixels).flatten(1, 2), states[-2])


@torch.no_grad()
def test_half_precision_checkpoint_becomes_float32(tmp_path: Path) -> None:
    config = tiny_transformers("clip", tmp_path)
    AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).to(torch.bfloat16).save_pretrained(tmp_path)
    tower = config.build()
    assert {p.dtype for p in tower.parameters()} == {torch.float32}


@torch.no_grad()
def test_another_image_size(tmp_path: Path) -> None:
    config, whole = with_weights("clip", tmp_path, image_size=48)
    pixels = torch.rand(1, 3, 48, 48)
    states = whole(normal(pixels), output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    torch.testing.assert_close(config.build()(pixels).flatten(1, 2), states[-2][:, 1:])


def test_mean_and_std_of_the_spec(tmp_path: Path) -> None:
    config = tiny_transformers("clip", tmp_path, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    (tmp_path / "preprocessor_config.json").unlink()
    assert config.build(weights=False).get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_damaged_config(tmp_path: Path) -> None:
    config = tiny_transformers("clip_vision_model", tmp_path)
    for damaged in ('{"model_type": "clip_vi', '{"model_type": "clip_vision_model", "hidden_size": "wide"}'):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(UserError, match=r"could not read .* \(configuration\)"):
            config.build(weights=False)


def test_no_mean_and_std(tmp_path: Path) -> None:
    config = tiny_transformers("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="no image_mean and image_std; give mean and std in the spec"):
        config.build(weights=False)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json.*give mean and std in the spec"):
        config.build(weights=False)


@pytest.mark.parametrize("weights", [True, False])
def test_unreachable_hub(weights: bool) -> None:
    with pytest.raises(
        UserError, match=r"could not read nobody/nothing.*offline, model: can name a local folder"
    ):
        TransformersConfig(model="nobody/nothing").build(weights=weights)


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not read .* \(weights\)"):
        tiny_transformers("clip", tmp_path).build()


def test_missing_weights_are_not_invented(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config, _ = with_weights("siglip", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in tensors if "vision" in name and "layers.0" in name)
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack 1 of \d+ tensors of the vision tower"):
        config.build()


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    auto = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    for weights in (True, False):
        with pytest.raises(UserError, match="could not read"):
            TransformersConfig(model=str(tmp_path)).build(weights=weights)
    assert not trace.exists()


def test_models_without_patches_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "depths": [1, 1, 1, 1]}))
    with pytest.raises(
        UserError, match="no vision Transformer with patches; CNNs are available as type: timm"
    ):
        TransformersConfig(model=str(tmp_path), mean=[0.5] * 3, std=[0.5] * 3).build(weights=False)


def test_every_tiny_model_is_compared() -> None:
    assert TINY_TRANSFORMERS.keys() == PREFIX.keys() | {"siglip2_free_aspect"}
