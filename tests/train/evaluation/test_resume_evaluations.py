"""Evaluations and validation of a resumed run: asked again or refused where the questions are others."""

import json
import shutil

import pytest
import yaml
from resume_helpers import edit, go, other_truth

from vlm_core.errors import UserError


def test_held_out_truths_that_change_are_asked_again(own_spec, tmp_path):
    folder, before = go(own_spec)
    edit(tmp_path / "test.json", other_truth)
    _, after = go(own_spec)
    answers = json.loads((folder.path / "evaluations" / "after instruct.json").read_text())["answers"]
    assert answers[0]["truth"] == "mauve"
    assert {name: r["of"]["rows"] for name, r in after} != {name: r["of"]["rows"] for name, r in before}
    assert [name for name, _ in after] == ["after instruct", "images shuffled", "majority answer"]
    assert go(own_spec)[1] == after


def test_a_lost_evaluation_is_asked_again(own_spec, tmp_path):
    folder, before = go(own_spec)
    shutil.rmtree(folder.path / "evaluations")
    assert go(own_spec)[1] == before


def test_an_earlier_stage_that_was_asked_something_else_is_left_out(run_spec, capsys, tmp_path):
    path = run_spec()
    go(path)
    capsys.readouterr()
    _, table = go(path, "train.held_out_qa.samples=5")
    assert [name for name, _ in table] == ["after instruct", "images shuffled", "majority answer"]
    assert "after align: its questions or settings have changed" in capsys.readouterr().out


def test_validation_on_other_rows_is_refused(own_spec, tmp_path, killed_at):
    shutil.copy(tmp_path / "test.json", tmp_path / "unseen.json")
    data = yaml.safe_load(own_spec.read_text())
    source = {**data["train"]["held_out_qa"]["data"][0], "path": str(tmp_path / "unseen.json")}
    data["train"]["validation"] = {"data": [source], "every": 2, "samples": 0}
    own_spec.write_text(yaml.safe_dump(data))
    killed_at(0, 3)
    with pytest.raises(KeyboardInterrupt):
        go(own_spec)
    edit(tmp_path / "unseen.json", other_truth)
    with pytest.raises(UserError, match=r"inputs differ in train\.validation\.data\.0"):
        go(own_spec)
