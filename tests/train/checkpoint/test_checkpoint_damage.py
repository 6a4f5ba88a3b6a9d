"""Any damage of a checkpoint is noticed before anything is read: the one before it is taken, or the run refused."""

import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from resume_helpers import go

from vlm_core.errors import UserError
from vlm_core.io.checksum import with_checksum
from vlm_core.io.manifest import MANIFEST, sha256
from vlm_train.checkpoint import checkpoint
from vlm_train.checkpoint.checkpoint import Position
from vlm_train.checkpoint.run_dir import INPUTS


@pytest.fixture
def root(tmp_path):
    """Checkpoints of steps 2 and 4, of the first stage."""
    (tmp_path / INPUTS).write_text(json.dumps(with_checksum({"data": {}})))
    for step in (2, 4):
        at = Position(0, step, tokens=7 * step)
        contents = {
            "connector": {"w": torch.full((3,), float(step))},
            "optimizer": {"w|step": torch.tensor(step)},
        }
        path = checkpoint.path_of(tmp_path / "checkpoints", "align", at)
        assert (
            checkpoint.save(path, lambda held=contents: held, ["connector"], at, Accelerator(cpu=True), 1)
            is None
        )
    return tmp_path / "checkpoints"


def names(root):
    return sorted(path.name for path in root.iterdir())


def newest(root, stages=1):
    told = []
    path = checkpoint.newest(root, stages, told.append)
    return path and path.name, told


def test_whole_ones_are_taken(root):
    assert newest(root) == ("00-align-00000004", [])
    assert checkpoint.position(root / "00-align-00000004") == Position(0, 4, tokens=28)
    assert checkpoint.newest(root.with_name("none"), 1, print) is None


@pytest.mark.parametrize("name", [MANIFEST, "position.json", INPUTS])
def test_each_flipped_byte_of_a_small_file_is_damage(root, name):
    """Or changes nothing: white space between the keys of a manifest."""
    path = root / "00-align-00000004"
    data = (path / name).read_bytes()
    whole = json.loads(data)
    noticed = 0
    for i in range(len(data)):
        for bit in (1, 32):
            (path / name).write_bytes(data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :])
            try:
                checkpoint.verify(path)
            except UserError:
                noticed += 1
            else:
                assert name == MANIFEST
                assert json.loads((path / name).read_bytes()) == whole
    assert noticed >= len(data)


def as_folder(file):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
    "gone": lambda file: file.unlink(),
    "folder": as_folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_is_taken_and_the_damage_told(root, damage):
    newer = root / "00-align-00000004"
    for file in sorted(newer.iterdir()):
        shutil.copytree(newer, root.with_name("kept"))
        DAMAGE[damage](file)
        path, (told, kept) = newest(root)
        assert path == "00-align-00000002"
        assert file.name in told
        assert kept == ("kept as damaged-00-align-00000004; resuming from the checkpoint before it")
        assert names(root) == ["00-align-00000002", "damaged-00-align-00000004"]
        shutil.rmtree(root / "damaged-00-align-00000004")
        root.with_name("kept").rename(newer)


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_whole_one_the_run_is_refused_and_nothing_is_moved(root, damage):
    for path in sorted(root.iterdir()):
        DAMAGE[damage](path / MANIFEST)
    before = names(root)
    with pytest.raises(
        UserError, match=r"every checkpoint of this run is damaged:\n(.*manifest\.json.*\n){2}restore"
    ):
        newest(root)
    assert names(root) == before


def listing(change):
    """Change a manifest as one who knows its checksum."""

    def made(path):
        manifest = json.loads((path / MANIFEST).read_text())
        change(manifest, path)
        (path / MANIFEST).write_text(json.dumps(with_checksum(manifest)))

    return made


def position_of(path, **values):
    """Another position, listed with its right hash."""
    content = {**json.loads((path / "position.json").read_text()), **values}
    (path / "position.json").write_text(json.dumps(content))
    file = path / "position.json"
    listing(
        lambda m, _: m["files"].update({file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)}})
    )(path)


UNTRUE = {
    "nothing listed": listing(lambda m, path: m.update(files={})),
    "no list": listing(lambda m, path: m.update(files=[])),
    "no position": listing(lambda m, path: m["files"].pop("position.json")),
    "weights not listed": listing(lambda m, path: m["files"].pop("connector.safetensors")),
    "a hash of no bytes": listing(lambda m, path: m["files"]["position.json"].update(sha256="x")),
    "a size of no number": listing(lambda m, path: m["files"]["position.json"].update(bytes=True)),
    "more about a file": listing(lambda m, path: m["files"]["position.json"].update(mode=1)),
    "a file outside": listing(lambda m, path: m["files"].update({"../x": m["files"]["position.json"]})),
    "other parts": listing(lambda m, path: m.update(parts=["encoder", "wheels"])),
    "parts without weights": listing(lambda m, path: m.update(parts=["llm"])),
    "no checksum": lambda path: (path / MANIFEST).write_text(json.dumps({"files": {}, "parts": []})),
    "a file more": lambda path: (path / "llm.safetensors").write_bytes(b""),
    "no step": lambda path: position_of(path, step="4"),
    "a step below 0": lambda path: position_of(path, step=-4),
    "another step": lambda path: position_of(path, step=3),
    "a key more": lambda path: position_of(path, steps=4),
    "another's name": lambda path: path.rename(path.with_name("00-align-00000009")),
    "a file": lambda path: (shutil.rmtree(path), path.write_text("")),
}


@pytest.mark.parametrize("untrue", UNTRUE)
def test_a_manifest_that_is_not_true_is_damage(root, untrue):
    UNTRUE[untrue](root / "00-align-00000004")
    path, (_, _) = newest(root)
    assert path == "00-align-00000002"


def test_a_stage_that_the_run_does_not_have(root):
    with pytest.raises(UserError, match="the run has only 0 stages"):
        newest(root, stages=0)


def test_checkpoints_that_are_a_file(root):
    shutil.rmtree(root)
    root.write_text("")
    with pytest.raises(UserError, match="expected the folder of a run's checkpoints"):
        newest(root)


def test_what_a_kill_left_of_a_removed_one_is_swept(root):
    checkpoint.rotate(root, 1)
    assert names(root) == ["00-align-00000004"]
    (root / ".00-align-00000002.0123abcd.tmp").mkdir()
    assert newest(root) == ("00-align-00000004", [])
    assert names(root) == ["00-align-00000004"]


def test_a_run_goes_on_from_the_whole_one_or_is_refused(begun, tmp_path, capsys):
    """Never from the beginning."""
    (only,) = (tmp_path / "run" / "checkpoints").iterdir()
    (only / MANIFEST).rename(tmp_path / "kept")
    with pytest.raises(UserError, match="every checkpoint of this run is damaged"):
        go(begun)
    (tmp_path / "kept").rename(only / MANIFEST)
    shutil.copytree(only, only.with_name("00-instruct-00000003"))
    capsys.readouterr()
    folder, _ = go(begun)
    assert "kept as damaged-00-instruct-00000003" in capsys.readouterr().out
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3, 4]
