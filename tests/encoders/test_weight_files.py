"""Bad weight files end in a short message with the path, and no code in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_towers import TINY_TIMM, tiny_timm
from torch import Tensor

from vlm_core.errors import UserError
from vlm_encoders import checkpoints


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
    with pytest.raises(UserError, match=f"model{suffix}: (cannot read these weights|not a plain checkpoint)"):
        build(path)


class _Touch:
    """Unpickled by a careless reader, creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_not_run(how: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "model.pth", tmp_path / "trace"
    content = {**tensors(), "extra": _Touch(trace)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(_Touch(trace), protocol=2))
    with pytest.raises(UserError, match=r"model\.pth: not a plain checkpoint.*safetensors"):
        build(path)
    assert not trace.exists()


def test_content_that_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "a.pth")
    with pytest.raises(UserError, match="expected a mapping of names to tensors, got list"):
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
    assert "2 missing from the file" in text
    assert "(cls_token, pos_embed)" in text
    assert "1 in the file, though timm's vit_tiny_patch16_224 has no such tensor (stranger)" in text
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
