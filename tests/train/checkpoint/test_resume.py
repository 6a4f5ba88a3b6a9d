"""What a run may be resumed with: equal content under any name, and keys that don't change what is learnt."""

import json
import os
import re
import shutil

import pytest
import torch
import yaml
from resume_helpers import edit, go, longer, other_truth, swapped
from safetensors.torch import load_file, save_file

from vlm_core.errors import UserError
from vlm_core.io.manifest import sha256
from vlm_core.model_folder import assemble
from vlm_llms.tokenizer.tokenizer import FastTokenizer, train_bpe
from vlm_train.checkpoint.prepare_run_dir import recorded_inputs
from vlm_train.checkpoint.run_dir import INPUTS, RunDir
from vlm_train.checkpoint.run_inputs import Inputs


def test_other_data_are_refused_by_name(begun, tmp_path):
    file = tmp_path / "train.json"
    before = file.read_text()
    for change, now in ((longer, 19), (other_truth, 18), (swapped, 18)):
        edit(file, change)
        where = r"inputs differ in train\.stages\.0\.data\.0: .*train\.json"
        with pytest.raises(UserError, match=rf"{where} \(18 rows, .* before, .*train\.json \({now} rows, "):
            go(begun)
        file.write_text(before)
    assert go(begun)[0].finished()
    edit(file, longer)
    with pytest.raises(UserError, match="inputs differ"):
        go(begun)


def test_a_picture_of_equal_size_is_other_data(begun, tmp_path):
    red, green = tmp_path / "pictures" / "red.bmp", tmp_path / "pictures" / "green.bmp"
    facts = red.stat()
    red.write_bytes(green.read_bytes())
    os.utime(red, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert red.stat().st_size == facts.st_size
    with pytest.raises(UserError, match=r"inputs differ in train\.stages\.0\.data\.0"):
        go(begun)


def test_equal_content_by_another_name_goes_on(begun, tmp_path, run_spec):
    """Touched, moved, renamed: data, pictures, and the run's own folder."""
    shutil.move(tmp_path / "train.json", tmp_path / "moved.json")
    shutil.move(tmp_path / "pictures", tmp_path / "images")
    os.utime(tmp_path / "moved.json", (1, 1))
    shutil.move(tmp_path / "run", tmp_path / "renamed")
    images = [f"train.{key}.data.0.images={tmp_path / 'images'}" for key in ("stages.0", "held_out_qa")]
    folder, _ = go(
        begun,
        *images,
        f"train.stages.0.data.0.path={tmp_path / 'moved.json'}",
        f"train.output={tmp_path / 'renamed'}",
    )
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3, 4]
    assert folder.finished()


def test_the_same_folder_by_another_relative_path(begun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = go(begun, "train.output=./pictures/../run", "train.stages.0.data.0.path=train.json")
    assert folder.finished()


def test_data_may_change_until_something_is_learnt(own_spec, tmp_path, killed_at):
    killed_at(0, 1)
    with pytest.raises(KeyboardInterrupt):
        go(own_spec)
    edit(tmp_path / "train.json", longer)
    go(own_spec)
    assert json.loads((tmp_path / "run" / INPUTS).read_text())["data"]["train.stages.0.data.0"]["rows"] == 19


def test_a_tokenizer_is_learnt_once(own_spec, tmp_path, killed_at, monkeypatch):
    """The one that the parts were checked with is the one that is kept."""
    learnt = []

    def counted(*args):
        learnt.append(train_bpe(*args))
        return learnt[-1]

    monkeypatch.setattr("vlm_llms.tokenizer.tokenizer.train_bpe", counted)
    killed_at(0, 1)
    with pytest.raises(KeyboardInterrupt):
        go(own_spec)
    assert learnt == [FastTokenizer.load(tmp_path / "run" / "tokenizer")]


def test_a_learnt_tokenizer_is_never_learnt_again(begun, tmp_path, monkeypatch):
    kept = sha256(tmp_path / "run" / "tokenizer" / "tokenizer.json")
    (tmp_path / "words.json").unlink()
    folder, _ = go(begun)
    assert sha256(folder.path / "model" / "llm" / "tokenizer.json") == kept
    go(begun)  # a finished one neither


def test_a_damaged_tokenizer_is_told(begun, tmp_path):
    file = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("a", "b"))
    with pytest.raises(UserError, match=r"the tokenizer that this run has trained: .*tokenizer\.json"):
        go(begun)


DAMAGED = ("", "[]", "{}", '{"data": 3}', '{"data": {}, "benchmarks": {}, "files": 3}')


def test_damaged_inputs_are_told_and_taken_from_a_checkpoint(begun, tmp_path, caplog):
    file = tmp_path / "run" / INPUTS
    kept = Inputs.read(file)
    flipped = file.read_text().replace("sha256", "sha257")
    for text in (*DAMAGED, flipped):
        file.write_text(text)
        caplog.clear()
        assert recorded_inputs(RunDir(tmp_path / "run")) == kept
        assert re.search(r"inputs\.json: damaged.*; the copy in checkpoints/00-\S+ is used", caplog.text)
    assert go(begun)[0].finished()
    assert Inputs.read(file) == kept


def test_damaged_inputs_of_which_there_is_no_copy_are_refused(begun, tmp_path):
    shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for text in DAMAGED:
        (tmp_path / "run" / INPUTS).write_text(text)
        with pytest.raises(UserError, match=r"inputs\.json: damaged.*no copy records what"):
            go(begun)


HARMLESS = {
    "name": "other",
    "train.num_workers": 1,
    "train.timeout": 900.0,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 4,
    "train.on_too_long": "error",
    "train.on_bad_sample": "skip",
    "train.bad_sample_budget": 3,
    "train.on_non_finite": "skip",
    "train.non_finite_budget": 3,
    "train.stages.0.micro_batch_size": 6,
    "train.held_out_qa.batch_size": 3,
    "train.held_out_qa.samples": 4,
    "train.held_out_qa.max_new_tokens": 2,
}


def test_what_does_not_change_what_is_learnt_may_change(begun, capsys):
    capsys.readouterr()
    folder, _ = go(begun, *(f"{key}={value}" for key, value in HARMLESS.items()))
    said = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("resuming with changed values")
    )
    assert "train.keep_checkpoints (2 → 4)" in said
    assert all(f"{key} (" in said for key in HARMLESS)
    assert folder.finished()


MATTER = {
    "train.seed": ("0", 3),
    "train.max_length": ("2048", 99),
    "train.stages.0.lr": ("0.003", 0.1),
    "train.stages.0.steps": ("4", 5),
    "train.stages.0.batch_size": ("6", 5),
    "train.stages.0.max_grad_norm": ("1.0", 2.0),
    "train.stages.0.packing": ("False", True),
    "connector.d_state": ("4", 8),
    "encoder.image_size": ("32", 64),
}


def test_what_does_is_listed_with_both_values(begun):
    for key, (old, new) in MATTER.items():
        with pytest.raises(UserError) as error:
            go(begun, f"{key}={new}", "train.num_workers=1")
        assert f"its spec differs in {key}: {old} before, {new} now. " in str(error.value)
    with pytest.raises(UserError) as error:
        go(begun, "train.seed=1", "train.stages.0.lr=1.0")
    assert "\n  train.seed: 0 before, 1 now\n  train.stages.0.lr: 0.003 before, 1.0 now\n" in str(error.value)
    assert "workers" not in str(error.value)


def stored(tmp_path, change):
    """The run's spec as an earlier version would have stored it, its copy in `inputs.json` included."""
    file = tmp_path / "run" / "spec.yaml"
    data = yaml.safe_load(file.read_text())
    change(data)
    file.write_text(yaml.safe_dump(data))
    edit(tmp_path / "run" / INPUTS, lambda inputs: inputs.update(spec=file.read_text()))


def test_a_default_that_is_newer_than_the_run(begun, tmp_path):
    stored(
        tmp_path, lambda data: (data["train"].pop("on_non_finite"), data["train"]["stages"][0].pop("packing"))
    )
    assert go(begun)[0].finished()


def test_a_key_that_no_longer_exists(begun, tmp_path):
    stored(tmp_path, lambda data: data["train"].update(gone=3))
    with pytest.raises(UserError, match=r"train\.gone: 3 before, not set now"):
        go(begun)


def test_missing_inputs_are_taken_from_a_checkpoint(begun, tmp_path, caplog):
    (tmp_path / "run" / INPUTS).unlink()
    shutil.copy(tmp_path / "train.json", tmp_path / "copy.json")
    edit(tmp_path / "copy.json", longer)
    with pytest.raises(UserError, match=r"inputs differ in train\.stages\.0\.data\.0"):
        go(begun, f"train.stages.0.data.0.path={tmp_path / 'copy.json'}")
    assert re.search(
        r"inputs\.json: cannot read this file: no such file; the copy in checkpoints/00-\S+ is used",
        caplog.text,
    )


def test_a_lost_spec_is_taken_from_the_inputs(begun, tmp_path, caplog):
    file = tmp_path / "run" / "spec.yaml"
    whole = file.read_text()
    for damage in (b"", whole[:80].encode(), b"\xff\xfe", b"- 3", b"a: [", None):
        file.write_bytes(damage) if damage is not None else file.unlink()
        with pytest.raises(UserError, match=r"its spec differs in train\.seed: 0 before, 1 now"):
            go(begun, "train.seed=1")
        assert "spec.yaml:" in caplog.text
        assert "; the copy in inputs.json is used" in caplog.text
        caplog.clear()
    assert go(begun)[0].finished()
    assert file.read_text() == whole


def test_other_versions_are_told(begun, tmp_path, capsys):
    edit(tmp_path / "run" / INPUTS, lambda data: data["versions"].update(torch="1.0"))
    go(begun)
    assert (
        f"packages have changed since this run began: torch 1.0 → {torch.__version__.split('+')[0]}"
        in capsys.readouterr().out
    )


def tower(path, scale=1.0):
    """The weights of a random tower as a file."""
    import timm

    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=16, num_heads=2)
    save_file({name: scale * value.contiguous() for name, value in model.state_dict().items()}, path)


def test_weights_are_known_by_content(own_spec, tmp_path, killed_at):
    file = tmp_path / "tower.safetensors"
    tower(file)
    killed_at(0, 3)
    with pytest.raises(KeyboardInterrupt):
        go(own_spec, f"encoder.weights={file}")
    tower(file, 1.5)
    with pytest.raises(UserError, match=r"inputs differ in encoder\.weights: .*tower\.safetensors"):
        go(own_spec, f"encoder.weights={file}")
    moved = tmp_path / "moved.safetensors"
    tower(moved)
    assert go(own_spec, f"encoder.weights={moved}")[0].finished()
    with pytest.raises(UserError, match=r"inputs differ in encoder\.weights"):
        go(own_spec, f"encoder.weights={file}")


def test_frozen_weights_that_came_out_otherwise(begun, monkeypatch):
    """A hub's branch that moved on, another random generator: nothing in the spec shows it."""
    build = assemble.build

    def other(*args, **kwargs):
        model = build(*args, **kwargs)
        next(model.encoder.parameters()).data.mul_(1.1)
        next(model.llm.parameters()).data.mul_(1.1)
        return model

    monkeypatch.setattr(assemble, "build", other)
    with pytest.raises(
        UserError, match=r"run: changed since this run started, and not in its checkpoints: encoder\. "
    ):
        go(begun)


def test_the_weights_of_a_resumed_run_are_those_of_an_unbroken_one(begun, tmp_path):
    part, _ = go(begun)
    whole, _ = go(begun, f"train.output={tmp_path / 'whole'}")
    for name in ("connector", "llm"):
        a, b = (load_file(f.path / "model" / name / "weights.safetensors") for f in (part, whole))
        assert all(torch.equal(a[key], b[key]) for key in b)
    assert RunDir(whole.path).finished()
