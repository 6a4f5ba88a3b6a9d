"""Bad weight files end in a short message with the path, and no code in them is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_towers import TINY_TIMM, code_that_touches, tiny_open_clip, tiny_timm
from torch import Tensor

from vlm_core.errors import UserError
from vlm_encoders import TimmConfig
from vlm_encoders.weights import checkpoints


def tensors() -> dict[str, Tensor]:
    case = TINY_TIMM["vit"]
    return timm.create_model(case["model"], **case["model_args"]).state_dict()


def build(path: Path | str, **changes: Any) -> Any:
    return tiny_timm("vit", weights=str(path), **changes).build()


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_pytorch_checkpoints_load(wrap: str | None, tmp_path: Path) -> None:
    content = tensors()
    torch.save({wrap: content, "epoch": 3} if wrap else content, tmp_path / "a.pth")
    tower = build(tmp_path / "a.pth")
    assert torch.equal(tower.get_parameter("model.pos_embed"), content["pos_embed"])


def test_order_loads_renamed_tensors(tmp_path: Path) -> None:
    content = tensors()
    torch.save({f"w{i:03}": tensor for i, tensor in enumerate(content.values())}, tmp_path / "a.pth")
    tower = build(tmp_path / "a.pth", match="order")
    assert torch.equal(tower.get_parameter("model.pos_embed"), content["pos_embed"])


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere/model.pth", "nowhere/model.pth: no such weight file"),
        ("python:no_such_package/model.pth", "the package 'no_such_package' is not installed"),
        ("python:timm/no_such_file.pth", "the package 'timm' is installed but holds no such file"),
        ("python:timm", "expected python:<package>/<path>"),
        ("python:", "expected python:<package>/<path>"),
    ],
)
def test_missing_files(where: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(where)


def test_packages_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "weights_package_that_fails"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "files" / "a.bin").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    for where in ("weights_package_that_fails/files/a.bin", "weights_package_that_fails.files/a.bin"):
        assert checkpoints.locate(f"python:{where}") == package / "files" / "a.bin"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_truncated_files(suffix: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(UserError, match=f"model{suffix}: (not a readable weight file|damaged)"):
        build(path)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_not_run(how: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "model.pth", tmp_path / "trace"
    content = {**tensors(), "extra": code_that_touches(trace)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(code_that_touches(trace), protocol=2))
    with pytest.raises(UserError, match=r"model\.pth: damaged, or not plain tensors.*safetensors"):
        build(path)
    assert not trace.exists()


def test_content_that_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "a.pth")
    with pytest.raises(UserError, match="expected tensors by name, got list"):
        build(tmp_path / "a.pth")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    content = tensors()
    del content["cls_token"], content["pos_embed"]
    content["stranger"] = torch.zeros(1)
    content["norm.weight"] = torch.zeros(5)
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as raised:
        build(tmp_path / "a.safetensors")
    text = str(raised.value)
    assert "2 tensors missing from the file" in text
    assert "(cls_token, pos_embed)" in text
    assert "1 tensor in the file, though timm's vit_tiny_patch16_224 has no such tensor (stranger)" in text
    assert "norm.weight: 5 instead of 16" in text


def test_order_that_does_not_fit(tmp_path: Path) -> None:
    content = tensors()
    names = list(content)
    swapped = {name: content[name] for name in [names[1], names[0], *names[2:]]}
    torch.save(swapped, tmp_path / "swapped.pth")
    with pytest.raises(UserError, match=r"fails at tensor 1 of .*pos_embed.*wants cls_token"):
        build(tmp_path / "swapped.pth", match="order")
    torch.save({name: content[name] for name in names[:-1]}, tmp_path / "short.pth")
    with pytest.raises(UserError, match="needs as many tensors as the model has"):
        build(tmp_path / "short.pth", match="order")


def save_shards(content: dict[str, Tensor], folder: Path) -> None:
    names = list(content)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for part, own in parts.items():
        save_file({name: content[name] for name in own}, folder / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("layout", ["model.safetensors", "pytorch_model.bin", "shards"])
def test_folders(layout: str, tmp_path: Path) -> None:
    content = tensors()
    if layout == "shards":
        save_shards(content, tmp_path)
    else:
        (save_file if layout.endswith("safetensors") else torch.save)(content, tmp_path / layout)
    tower = build(tmp_path)
    assert torch.equal(tower.get_parameter("model.pos_embed"), content["pos_embed"])


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no weights; looked for model\.safetensors, pytorch_model\.bin"
    ):
        build(tmp_path)
    save_shards(tensors(), tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"of 2 files 1 are missing \(model-00002.*download did not finish"):
        build(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": ["../../x"]}')
    with pytest.raises(UserError, match="expected a weight_map from tensors to files beside it"):
        build(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    content = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    save_file(content, tmp_path / "a.safetensors")
    found = build(tmp_path / "a.safetensors").get_parameter("model.pos_embed")
    assert torch.equal(found, content["pos_embed"].float())
    assert found.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    content = tensors()
    content["norm.weight"] = content["norm.weight"].to(dtype)
    save_file(content, tmp_path / "a.safetensors")
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        UserError, match=rf"1 tensor of a number format .* \(norm\.weight: {name} instead of float32\)"
    ):
        build(tmp_path / "a.safetensors")


def test_a_head_of_other_classes_does_not_matter(tmp_path: Path) -> None:
    content = tensors()
    save_file(
        {**content, "head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)},
        tmp_path / "a.safetensors",
    )
    tower = build(tmp_path / "a.safetensors")
    assert torch.equal(tower.get_parameter("model.pos_embed"), content["pos_embed"])


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    """An open_clip file, whose names timm can translate, but of other patches; and one it knows nothing of."""
    import open_clip

    model = tiny_open_clip("vit", tmp_path).model
    whole = open_clip.create_model(model, load_weights=False)
    save_file(whole.state_dict(), tmp_path / "clip.safetensors")
    args = {**TINY_TIMM["clip"]["model_args"], "depth": 3, "patch_size": 16}
    with pytest.raises(
        UserError, match=r"does not fit timm's vit_base_patch16_clip_224: its .* is of another size"
    ):
        tiny_timm("clip", model_args=args, weights=str(tmp_path / "clip.safetensors")).build()
    with pytest.raises(
        UserError,
        match=r"\d+ tensors missing from the file, though timm's test_efficientnet needs them \(conv_",
    ):
        tiny_timm("cnn", weights=str(tmp_path / "clip.safetensors")).build()


def test_a_copy_of_a_timm_repository(tmp_path: Path) -> None:
    """config.json says the architecture, its arguments, constants and filter; a saved encoder keeps them."""
    arguments = {k: v for k, v in TINY_TIMM["vit"]["model_args"].items() if k != "img_size"}
    weights = {
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bilinear",
        "classifier": "head",
        "input_size": [3, 32, 32],
        "fixed_input_size": True,
        "num_classes": 1000,
    }
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {**arguments, "img_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": weights}))
    content = tensors()
    save_file(content, tmp_path / "model.safetensors")
    config = TimmConfig(model=f"local-dir:{tmp_path}", pretrained=True)
    tower = config.build()
    tower.save_assets(tmp_path / "assets")
    (tmp_path / "config.json").unlink()
    again = config.build(weights=False, assets=tmp_path / "assets")
    for encoder in (tower, again):
        assert encoder.get_buffer("mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
        assert (encoder.dim, encoder.image_size, encoder.resizing.interpolation) == (16, (32, 32), "bilinear")
    assert torch.equal(tower.get_parameter("model.pos_embed"), content["pos_embed"])
    with pytest.raises(UserError, match=r"could not get the configuration of timm's local-dir:"):
        config.build()


def test_a_copy_of_an_open_clip_repository_brings_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights; looked for"):
        tiny_open_clip("vit", tmp_path).build()
