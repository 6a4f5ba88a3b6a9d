"""Code that comes with a model, in `vlm-train`: the person's permission reaches every process, and no spec gives it."""

import json
import sys

import pytest
import yaml

from vlm_train.cli import main
from vlm_train.distributed import launch
from vlm_train.sweep.grid import load

ZEROS = "0" * 40


@pytest.fixture
def spec_file(tiny_spec, text_rows, tmp_path):
    """A spec whose language model is a local folder with code that would leave a trace."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    auto = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))
    llm = {"type": "transformers", "model": str(folder), "trust_remote_code": True, "revision": ZEROS}
    data = [{"type": "llava", "path": str(text_rows)}]
    stage = {"name": "a", "trainable": ["connector"], "data": data, "lr": 1e-3, "batch_size": 2, "steps": 1}
    train = {"output": str(tmp_path / "run"), "stages": [stage]}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**tiny_spec, "llm": llm, "train": train}))
    return path


@pytest.mark.parametrize("command", ["run", "check", "preview", "plan"])
def test_no_command_runs_local_code_by_a_spec_alone(command, spec_file, monkeypatch, capsys):
    monkeypatch.chdir(spec_file.parent)
    monkeypatch.setattr(sys, "argv", ["vlm-train", command, str(spec_file)])
    assert main.main() == 2
    said = capsys.readouterr().err
    assert "mine.py  sha256 " in said
    assert "--trust-remote-code" in said
    assert not (spec_file.parent / "ran").exists()
    assert not (spec_file.parent / "run").exists()


@pytest.mark.parametrize("options", [[], ["--trust-remote-code"]])
def test_the_permission_reaches_every_process(options, spec_file):
    args = main._parser().parse_args(["run", str(spec_file), "--nproc", "2", *options])
    assert launch.plan(args).words[4:] == options


@pytest.mark.parametrize("permission", [False, True])
def test_the_permission_reaches_every_run_of_a_sweep(permission, spec_file):
    file = spec_file.parent / "grid.yaml"
    file.write_text(yaml.safe_dump({"base": "spec.yaml", "output": "runs", "rows": {"a": {}}}))
    grid = load(file, trust_remote_code=permission)
    spec, _ = grid.spec(grid.rows[0], 0)
    assert spec.llm._trust == ("files" if permission else "commits")
