"""Facts of weights come from what lies beside them, else from tags that agree, and from no name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_towers import meta, tiny_open_clip, tiny_timm, tiny_transformers, write_json

from vlm_core.errors import UserError
from vlm_encoders import FusedConfig, OpenClipConfig, TimmConfig
from vlm_encoders.weights.activations import activation_of

OWN = {
    "mean": [0.1, 0.1, 0.1],
    "std": [0.2, 0.2, 0.2],
    "interpolation": "bilinear",
    "input_size": [3, 160, 160],
    "fixed_input_size": True,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return timm.create_model("test_vit", pretrained=False).state_dict()


@pytest.fixture
def mine(weights: dict[str, Any], tmp_path: Path) -> Path:
    """A fine-tuned tower as timm saves it."""
    save_file(weights, tmp_path / "model.safetensors")
    write_json(tmp_path, config={"architecture": "test_vit", "pretrained_cfg": OWN})
    return tmp_path


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_file_and_its_folder_tell_the_same(mine: Path, name: str) -> None:
    for config in (
        TimmConfig(model=f"local-dir:{mine}", pretrained=True),
        TimmConfig(model="test_vit", weights=str(mine / name)),
    ):
        for facts in (config.build().preprocessing, meta(config).preprocessing):
            assert facts is not None
            assert (facts.mean, facts.std, facts.interpolation) == ((0.1,) * 3, (0.2,) * 3, "bilinear")
            assert facts.sources["mean"] == str(mine / "config.json")


def test_the_spec_comes_first_and_says_so(mine: Path) -> None:
    config = TimmConfig(model="test_vit", weights=str(mine), mean=[0.3] * 3, resize_mode="crop", crop_pct=0.5)
    facts = meta(config).preprocessing
    assert (facts.mean, facts.std, facts.resize_mode, facts.crop_pct) == ((0.3,) * 3, (0.2,) * 3, "crop", 0.5)
    assert (facts.sources["mean"], facts.sources["resize_mode"]) == ("the spec", "the spec")


def test_two_files_that_differ(mine: Path) -> None:
    config = TimmConfig(model="test_vit", weights=str(mine))
    write_json(mine, preprocessor_config={"image_mean": [0.5] * 3, "image_std": [0.2] * 3})
    with pytest.raises(
        UserError,
        match=r"config\.json says mean \(0\.1, .*preprocessor_config\.json says "
        r"\(0\.5, .*give mean in the spec",
    ):
        meta(config)
    assert meta(config, mean=[0.5] * 3).preprocessing.mean == (0.5,) * 3
    write_json(mine, preprocessor_config={"crop_size": 224, "do_center_crop": True})
    with pytest.raises(UserError, match=r"image_size \(160, 160\), .*\(224, 224\); give image_size"):
        meta(config)


def test_a_config_of_another_architecture(mine: Path) -> None:
    config = tiny_timm("vit", weights=str(mine / "model.safetensors"))
    with pytest.raises(
        UserError, match=r"config\.json is of test_vit, not of vit_tiny_patch16_224: set model"
    ):
        meta(config)
    write_json(mine, config={"model_type": "mamba", "hidden_size": 8})
    assert meta(config).preprocessing.mean == (0.5,) * 3


def test_damaged_config(mine: Path) -> None:
    (mine / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        meta(TimmConfig(model="test_vit", weights=str(mine)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mean": "0.1"}, r"config\.json says mean 0\.1; expected three numbers.*give mean in the spec"),
        ({"mean": [0.1]}, r"mean \(0\.1\); expected three numbers"),
        ({"mean": 0.0}, r"mean 0\.0; expected three numbers"),
        ({"mean": [123.7, 116.3, 103.5]}, r"mean \(123\.7, .*in \[0, 1\]"),
        ({"std": [0, 0, 0]}, r"std \(0, 0, 0\); expected three numbers above 0"),
        ({"std": [float("nan")] * 3}, r"std \(nan, .*expected three numbers above 0"),
        ({"interpolation": 3}, "interpolation 3; expected the name of"),
        ({"input_size": 160}, "input_size is 160; expected channels, height and width"),
        ({"crop_mode": "middle"}, "crop_mode is 'middle'; expected center, squash, border"),
    ],
)
def test_a_value_that_no_image_can_be_prepared_with(mine: Path, config: dict[str, Any], message: str) -> None:
    write_json(mine, config={"architecture": "test_vit", "pretrained_cfg": {**OWN, **config}})
    for names in ({"weights": str(mine)}, {"model": f"local-dir:{mine}", "pretrained": True}):
        with pytest.raises(UserError, match=message if "weights" in names else None):
            meta(TimmConfig(**{"model": "test_vit", **names}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "config",
            {"architecture": "test_vit", "pretrained_cfg": [1]},
            "pretrained_cfg is \\[1\\]; expected a",
        ),
        ("config", {"architecture": "test_vit", "model_args": [1]}, "model_args is \\[1\\]; expected a JSON"),
        ("open_clip_config", {"preprocess_cfg": "x"}, "preprocess_cfg is 'x'; expected a JSON object"),
        ("open_clip_config", {"model_cfg": {"vision_cfg": 3}}, "vision_cfg is 3; expected a JSON object"),
        ("open_clip_config", {"preprocess_cfg": {"size": "224"}}, "image_size .*expected height and width"),
    ],
)
def test_a_config_of_another_form(mine: Path, name: str, content: Any, message: str) -> None:
    write_json(mine, **{name: content})
    with pytest.raises(UserError, match=message):
        meta(TimmConfig(model="test_vit", weights=str(mine)))


def test_a_config_with_a_byte_order_mark(mine: Path) -> None:
    file = mine / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert meta(TimmConfig(model="test_vit", weights=str(mine))).preprocessing.mean == (0.1,) * 3


def test_a_spec_names_colours_in_the_scale_of_pixels() -> None:
    for key, value in (
        ("mean", [123.7, 116.3, 103.5]),
        ("mean", [float("nan")] * 3),
        ("std", [float("inf")] * 3),
    ):
        with pytest.raises(ValueError, match=key):
            TimmConfig(**{"model": "test_vit", key: value})


def test_metadata_and_openai(weights: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "any.safetensors"
    save_file(weights, file, metadata={"pretrained_cfg": json.dumps({**OWN, "crop_mode": "border"})})
    facts = meta(TimmConfig(model="test_vit", weights=str(file))).preprocessing
    assert (facts.mean, facts.resize_mode, facts.sources["mean"]) == ((0.1,) * 3, "pad", f"{file} (metadata)")
    numbers = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    save_file({**weights, **numbers}, file)
    tower = meta(TimmConfig(model="vit_base_patch32_clip_224", weights=str(file)))
    assert tower.preprocessing.activation == "quick_gelu"


@pytest.fixture
def weight_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight files without configs beside them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("no.pt", "no.pth"):
        Path(name).touch()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TimmConfig(model="vit_base_patch16_224", weights="no.pth"),
            r"timm's vit_base_patch16_224\.\w+ says mean "
            r"\(0\.5, .*timm's vit_base_patch16_224\.\w+ says \(0\.48.*no file beside the weights decides; give mean",
        ),
        (
            TimmConfig(model="vit_base_patch32_clip_224", weights="no.pth"),
            "says activation .*gelu.*give activation",
        ),
        (
            OpenClipConfig(model="ViT-B-32", pretrained="no.pt"),
            "tag openai says activation quick_gelu, open_clip's "
            "tag laion2b_e16 says gelu.*give activation in the spec",
        ),
        (
            OpenClipConfig(model="ViT-L-14", pretrained="no.pt"),
            r"tag laion2b_s32b_b82k says \(0\.5.*give mean",
        ),
    ],
)
@pytest.mark.usefixtures("weight_files")
def test_tags_that_differ_decide_nothing(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        meta(config)


@pytest.mark.usefixtures("weight_files")
def test_tags_that_agree_and_the_tag_that_is_named() -> None:
    assert (
        meta(OpenClipConfig(model="ViT-L-14-336", pretrained="no.pt")).preprocessing.activation
        == "quick_gelu"
    )
    assert meta(OpenClipConfig(model="ViT-B-16-SigLIP", pretrained="no.pt")).preprocessing.mean == (0.5,) * 3
    for name in ("vit_base_patch32_clip_224.openai", "vit_base_patch32_clip_quickgelu_224"):
        assert activation_of(meta(TimmConfig(model=name, weights="no.pth"))) == "quick_gelu"
    named = meta(TimmConfig(model="vit_base_patch16_224.mae", weights="no.pth")).preprocessing
    assert (named.mean[0], named.sources["mean"]) == (0.485, "timm's vit_base_patch16_224.mae")
    chosen = meta(OpenClipConfig(model="ViT-B-32", pretrained="no.pt", activation="gelu_tanh"))
    assert chosen.preprocessing.activation == "gelu_tanh"


def test_open_clip_beside_a_file(tmp_path: Path) -> None:
    file = tmp_path / "open_clip_model.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    model = open_clip.get_model_config("ViT-B-32")
    cfg = {"mean": [0.2] * 3, "std": [0.3] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    write_json(tmp_path, open_clip_config={"model_cfg": {**model, "quick_gelu": True}, "preprocess_cfg": cfg})
    for where in (file, tmp_path):
        facts = meta(OpenClipConfig(model="ViT-B-32", pretrained=str(where))).preprocessing
        assert (facts.mean, facts.interpolation, facts.resize_mode) == ((0.2,) * 3, "bilinear", "resize")
        assert facts.activation == "quick_gelu"
    with pytest.raises(UserError, match=r"is of another tower, with width 768 instead of 1024"):
        meta(OpenClipConfig(model="ViT-L-14-336", pretrained=str(file)))


def test_transformers_config_beside_a_file_of_timm(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    vision = {"image_size": 32, "hidden_act": "quick_gelu"}
    write_json(tmp_path, config={"model_type": "clip", "vision_config": vision})
    config = tiny_timm("clip", weights=str(tmp_path), activation=None)
    facts = meta(config).preprocessing
    assert (facts.activation, facts.sources["activation"]) == ("quick_gelu", str(tmp_path / "config.json"))
    with pytest.raises(UserError, match="activation quick_gelu, but this tower computes relu"):
        meta(TimmConfig(model="test_resnet", activation="quick_gelu"))


def test_folders_and_repositories_need_a_word_on_their_weights() -> None:
    for model in ("local-dir:mine", "hf-hub:me/mine"):
        with pytest.raises(
            ValueError, match="is ambiguous; set pretrained: true for its weights, or pretrained: false"
        ):
            TimmConfig(model=model)
        TimmConfig(model=model, pretrained=False)
        TimmConfig(model=model, weights="other.pth")


def test_folders_of_the_first_versions(tmp_path: Path) -> None:
    """They hold mean, std and filter, and their spec the way of resizing."""
    config = tiny_open_clip("vit", tmp_path)
    tower = meta(config)
    tower.save_assets(tmp_path)
    content = json.loads((tmp_path / "open_clip_config.json").read_text())
    del content["preprocessing"], content["preprocess_cfg"]["resize_mode"]
    write_json(tmp_path, open_clip_config=content)
    again = config.model_copy(update={"resize_mode": "resize"}).build(weights=False, assets=tmp_path)
    assert again.preprocessing is not None
    assert (again.preprocessing.mean, again.preprocessing.resize_mode) == (tower.preprocessing.mean, "resize")
    assert again.preprocessing.activation == "quick_gelu"


def test_each_tower_of_a_pair_tells_its_own(tmp_path: Path) -> None:
    from vlm_core.preprocessing import preprocessing_rows

    vision = tiny_transformers("siglip", tmp_path, layer=-1)
    rows = preprocessing_rows(meta(FusedConfig(towers=[tiny_timm("dinov2_registers"), vision])))
    means = {tower: value for tower, key, value, _ in rows if key == "mean"}
    assert means == {"towers.0": "0.485, 0.456, 0.406", "towers.1": "0.5, 0.4, 0.3"}
