"""Model folders: whole or not there, bit-equal when read back, every damaged byte found by name."""

import json
import resource
import shutil

import pytest
import torch

from vlm_core.errors import UserError
from vlm_core.io.checksum import with_checksum
from vlm_core.io.manifest import verify_folder, write_folder
from vlm_core.model_folder.assemble import build, load, save
from vlm_core.spec.spec import Spec


def test_round_trip_is_bit_equal(tiny_spec, tiny_folder):
    original, (again, spec) = build(Spec.model_validate(tiny_spec)), load(tiny_folder)
    for (name, a), (_, b) in zip(original.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert spec.train is None
    assert again.llm.tokenizer.encode("is there a circle?") == original.llm.tokenizer.encode(
        "is there a circle?"
    )
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(original.encode_images(pixels), again.encode_images(pixels))


def test_folder_needs_neither_the_data_nor_its_plugin(tiny_folder):
    """The tokenizer was learnt from a file; the folder carries the tokenizer and forgets the file."""
    assert "texts.json" not in (tiny_folder / "spec.yaml").read_text()


def test_manifest_says_what_it_was_made_with(tiny_folder):
    manifest = json.loads((tiny_folder / "manifest.json").read_text())
    assert {"torch", "vlm-core", "vlm-encoders", "vlm-connectors", "vlm-llms"} <= set(manifest["versions"])
    assert all(len(entry["sha256"]) == 64 for entry in manifest["files"].values())


@pytest.mark.parametrize("name", ["llm/weights.safetensors", "spec.yaml", "llm/tokenizer.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_by_name(tiny_folder, tmp_path, name, damage):
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    file = folder / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[:-1])
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": 3}'])
def test_damaged_manifest(tiny_folder, tmp_path, content):
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        load(tmp_path / "m")


def test_a_manifest_is_verified_by_its_checksum(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / "manifest.json"
    whole = file.read_text()
    changed = {
        "a version": whole.replace('"torch": "', '"torch": "1'),
        "a hash": whole.replace("sha256", "sha265", 1),
        "no checksum": json.dumps({k: v for k, v in json.loads(whole).items() if k != "sha256"}),
        "nothing listed": json.dumps({**json.loads(whole), "files": {}}),
        "half": whole[: len(whole) // 2],
        "deep": "[" * 100_000,
    }
    for text in changed.values():
        assert text != whole
        file.write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json: damaged.*; restore the folder from a copy"):
            load(tmp_path / "m")
    file.unlink()
    file.mkdir()
    with pytest.raises(
        UserError, match=r"manifest\.json: cannot read this file: a folder, expected a regular file"
    ):
        load(tmp_path / "m")


def listed(folder, change):
    """Change the list of files, checksum included."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(with_checksum(manifest)))


@pytest.mark.parametrize("name", ["spec.yaml", "llm/weights.safetensors", "encoder/weights.safetensors"])
def test_what_is_read_must_be_listed(tiny_folder, tmp_path, name):
    shutil.copytree(tiny_folder, tmp_path / "m")
    listed(tmp_path / "m", lambda files: files.pop(name))
    with pytest.raises(UserError, match=rf"{name}: not listed in manifest\.json"):
        load(tmp_path / "m")


def test_files_that_would_be_read_if_they_were_there(tiny_folder, tmp_path):
    """A tokenizer's optional files; a user's own beside the parts, and hidden ones, are none."""
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    for name in ("notes.txt", "pictures/a.png", ".gitattributes", "llm/.DS_Store", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    load(folder)
    (folder / "llm" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(
        UserError, match=r"llm/chat_template\.jinja: not listed in manifest\.json.*remove this file"
    ):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "llm/../../x", "manifest.json", "", "a\0b", "a" * 256, "é" * 128, "ab/" * 700],
)
def test_names_that_lead_out_of_the_folder(tiny_folder, tmp_path, name):
    shutil.copytree(tiny_folder, tmp_path / "m")
    listed(tmp_path / "m", lambda files: files.update({name: {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(UserError, match=r"manifest\.json: damaged: its list of files"):
        load(tmp_path / "m")


def test_a_full_disk_leaves_no_model(tmp_path, tiny_model, tiny_spec):
    """The error that safetensors raises is no `OSError`."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"out: cannot write: File too large"):
            save(tiny_model, Spec.model_validate(tiny_spec), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())


def test_not_a_model_folder(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        load(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: not a folder, but a model folder is expected"):
        load(tmp_path / "file")
    with pytest.raises(UserError, match=r"not a model folder: it has no manifest\.json"):
        load(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path):
    def write(folder):
        (folder / "a").write_text("a")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_folder(tmp_path / "out", write, {})
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_touched(tmp_path, tiny_model, tiny_spec):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        save(tiny_model, Spec.model_validate(tiny_spec), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_weights_of_another_shape_are_refused(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "m")
    spec = (tmp_path / "m" / "spec.yaml").read_text().replace("d_state: 4\n  d_conv", "d_state: 5\n  d_conv")
    shutil.rmtree(tmp_path / "m" / "connector", ignore_errors=False)
    shutil.copytree(tiny_folder / "connector", tmp_path / "x" / "connector")

    def write(folder):
        shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        (folder / "spec.yaml").write_text(spec)

    write_folder(tmp_path / "other", write, {})
    verify_folder(tmp_path / "other")
    with pytest.raises(UserError, match=r"wrong shape: vss\.mixers\.0\.A_log \(32, 4\) for \(32, 5\)"):
        load(tmp_path / "other")


def test_the_folder_of_a_run_names_its_model(tmp_path):
    write_folder(tmp_path / "run" / "model", lambda folder: None, {})
    with pytest.raises(
        UserError, match=r"run: not a model folder: it has no manifest\.json; .*run/model is one"
    ):
        verify_folder(tmp_path / "run")
