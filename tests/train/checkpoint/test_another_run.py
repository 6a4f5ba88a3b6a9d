"""What another run has left in a folder, whole and with right hashes, is neither trained on nor shown."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from resume_helpers import go
from safetensors.torch import load_file

from vlm_core.errors import UserError
from vlm_core.io.manifest import read_manifest
from vlm_train.checkpoint.run_dir import RunDir


def weights(run):
    return {
        f"{file.parent.name}/{name}": tensor.tolist()
        for file in sorted((run / "model").rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def said(run):
    return json.loads((run / "evaluations/after instruct.json").read_text())["answers"]


@pytest.fixture
def folders(begun, tmp_path):
    """(the spec, the folder of): `run`, which has begun; `whole`, the same to its end; `other`, with another rate."""
    spec = yaml.safe_load(begun.read_text())
    run = Path(spec["train"]["output"])
    shutil.copytree(run, tmp_path / "begun")
    go(begun)
    run.rename(tmp_path / "whole")
    spec["train"]["stages"][0]["lr"] = 0.1
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(spec))
    go(other)
    run.rename(tmp_path / "other")
    shutil.copytree(tmp_path / "begun", run)
    return begun, tmp_path


def test_what_another_run_left(folders, capsys):
    path, home = folders
    newest = "checkpoints/00-instruct-00000004"
    shutil.copytree(home / "other" / newest, home / "run" / newest)
    shutil.copytree(home / "other/evaluations", home / "run/evaluations")
    text = (home / "run/spec.yaml").read_text()
    (home / "run/spec.yaml").write_text(text.replace("name: tiny", "oame: tiny"))
    go(path)
    assert "00-instruct-00000004: of another run, whose spec or data differ" in capsys.readouterr().out
    assert weights(home / "run") == weights(home / "whole") != weights(home / "other")
    assert said(home / "run") == said(home / "whole")
    assert (home / "run/spec.yaml").read_text() == text, "the copy in inputs.json is taken"

    mine, theirs = (read_manifest(home / name / "model")["run"] for name in ("run", "other"))
    assert mine == read_manifest(home / "whole/model")["run"] != theirs
    shutil.rmtree(home / "run/model")
    shutil.copytree(home / "other/model", home / "run/model")
    with pytest.raises(UserError, match=r"run/model: of another run, .*\n.*remove this folder"):
        go(path)
    shutil.rmtree(home / "run/model")
    shutil.copy(home / "other/evaluations/after instruct.json", home / "run/evaluations")
    assert RunDir(home / "run").evaluation("after instruct")["of"]["run"] == theirs
    go(path)
    assert weights(home / "run") == weights(home / "whole")
    assert said(home / "run") == said(home / "whole")
