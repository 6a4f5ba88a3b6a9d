"""transformers towers give transformers' own hidden states, CLS and registers left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_towers import TINY_TRANSFORMERS, VISION, tiny_transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vlm_core.errors import UserError
from vlm_encoders import TransformersConfig

PREFIX = {
    "clip": 1,
    "siglip": 0,
    "dinov2": 1,
    "dinov2_registers": 4,
    "vit": 1,
    "clip_vision_model": 1,
    "sam": 0,
}
MAPS = {"swin", "convnext"}


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
    expected = states[(-2 if layer is None else layer) % 4 + 1]
    expected = expected.flatten(1, 2) if name == "sam" else expected[:, PREFIX[name] :]
    torch.testing.assert_close(config.build()(pixels).flatten(1, 2), expected)


@pytest.mark.parametrize("name", ["clip_vision_model", "swin"])
@torch.no_grad()
def test_what_a_config_says_of_outputs_changes_nothing(name: str, tmp_path: Path) -> None:
    config, _ = with_weights(name, tmp_path)
    pixels, plain = torch.rand(2, 3, 32, 32), json.loads((tmp_path / "config.json").read_text())
    expected = config.build()(pixels)
    (tmp_path / "config.json").write_text(json.dumps({**plain, "return_dict": False}))
    torch.testing.assert_close(config.build()(pixels), expected)


@pytest.mark.parametrize("name", sorted(MAPS))
@torch.no_grad()
def test_equals_the_last_map(name: str, tmp_path: Path) -> None:
    config, whole = with_weights(name, tmp_path)
    tower = config.build()
    pixels = torch.rand(2, 3, *tower.image_size)
    expected = whole(normal(pixels)).last_hidden_state
    expected = expected.permute(0, 2, 3, 1).flatten(1, 2) if expected.ndim == 4 else expected
    torch.testing.assert_close(tower(pixels).flatten(1, 2), expected)
    with pytest.raises(UserError, match="gives its last feature map only; leave layer out"):
        tiny_transformers(name, tmp_path, layer=0).build(weights=False)


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
def test_another_image_size(tmp_path: Path) -> None:
    config, whole = with_weights("clip", tmp_path, image_size=48)
    pixels = torch.rand(1, 3, 48, 48)
    states = whole(normal(pixels), output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    torch.testing.assert_close(config.build()(pixels).flatten(1, 2), states[-2][:, 1:])


@torch.no_grad()
def test_pixels_of_any_size_where_positions_can_be_resampled(tmp_path: Path) -> None:
    config, whole = with_weights("clip", tmp_path)
    pixels = torch.rand(1, 3, 48, 24)
    states = whole(normal(pixels), output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    found = config.build()(pixels)
    assert found.shape == (1, 6, 3, 16)
    torch.testing.assert_close(found.flatten(1, 2), states[-2][:, 1:])


def test_filter_of_the_preprocessor(tmp_path: Path) -> None:
    """SigLIP 2 names the bilinear filter, CLIP the bicubic one; the spec may say otherwise."""
    config = tiny_transformers("siglip", tmp_path)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    image = Image.effect_noise((50, 70), 99).convert("RGB")
    tower = config.build(weights=False)
    tower.save_assets(tmp_path / "assets")
    own = config.model_copy(update={"interpolation": "lanczos"}).build(weights=False)
    again = config.build(weights=False, assets=tmp_path / "assets")
    for encoder, name in ((tower, "BILINEAR"), (again, "BILINEAR"), (own, "LANCZOS")):
        expected = np.asarray(image.resize((32, 32), Image.Resampling[name]), dtype=np.float32) / 255
        assert torch.equal(encoder.transform(image), torch.from_numpy(expected).permute(2, 0, 1))


def test_size_of_a_cnn_is_the_preprocessors(tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16]}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "resnet", "depths": [1, 1, 1, 1], **sizes})
    )
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    tower = TransformersConfig(model=str(tmp_path)).build(weights=False)
    assert (tower.dim, tower.image_size, tower.grid(64, 64)) == (16, (64, 64), (2, 2))
    config = TransformersConfig(model=str(tmp_path), mean=[0.5] * 3, std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="has image_size; give it in the spec"):
        config.build(weights=False)


@pytest.mark.parametrize("model_type", ["vit_mae", "pixtral"])
def test_what_gives_no_grid_is_refused(model_type: str, tmp_path: Path) -> None:
    """A masked autoencoder leaves patches out; Pixtral lays all images of a batch in one row."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **VISION}))
    with pytest.raises(
        UserError, match=r"cannot run on 32×32 pixels: it gives \(.*where 2 grids of 4×4 patches"
    ):
        TransformersConfig(model=str(tmp_path), mean=[0.5] * 3, std=[0.5] * 3).build(weights=False)


def test_mean_and_std_of_the_spec(tmp_path: Path) -> None:
    config = tiny_transformers("clip", tmp_path, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    (tmp_path / "preprocessor_config.json").unlink()
    assert config.build(weights=False).get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_damaged_config(tmp_path: Path) -> None:
    config = tiny_transformers("clip_vision_model", tmp_path)
    for damaged, message in (
        ('{"model_type": "clip_vi', r"config\.json: not JSON"),
        ('{"model_type": "clip_vision_model", "hidden_size": "wide"}', r"could not read .* \(config\.json\)"),
    ):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(UserError, match=message):
            config.build(weights=False)


def test_no_mean_and_std(tmp_path: Path) -> None:
    config = tiny_transformers("clip", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="no image_mean and image_std; give mean and std in the spec"):
        config.build(weights=False)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json.*give mean and std in the spec"):
        config.build(weights=False)


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
    with pytest.raises(UserError, match=r"1 of the \d+ tensors of the vision tower are missing \(\w+"):
        config.build()


def test_every_tiny_model_is_compared() -> None:
    assert TINY_TRANSFORMERS.keys() == PREFIX.keys() | {"siglip2_free_aspect"} | MAPS
