"""A run folder may be anybody's: nothing is written through its links, and no file of it takes all memory."""

import json
import os

import pytest

from vlm_core.errors import UserError
from vlm_core.io.manifest import read_manifest, refuse_links, write_folder
from vlm_train.checkpoint import jsonl_log
from vlm_train.checkpoint.jsonl_log import RunLog
from vlm_train.checkpoint.run_dir import LOCK, RunDir
from vlm_train.report import html
from vlm_train.sweep.process_pool import Pool

RECORD = {"stage": 0, "name": "a", "step": 1, "loss": 2.0, "skipped": 0}


@pytest.fixture
def precious(tmp_path):
    file = tmp_path / "precious"
    file.write_text("mine\n")
    yield file
    assert file.read_text() == "mine\n"


NAMES = [
    LOCK,
    "metrics.jsonl",
    "inputs.json",
    "report.html",
    "evaluations/after a.json",
    "evaluations/outdated",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["precious", "absent"])
def test_nothing_is_written_through_a_link(tmp_path, precious, name, target):
    (tmp_path / "run/evaluations").mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="a link that leaves the folder"):
        RunDir(tmp_path / "run").open()
    assert not (tmp_path / "absent").exists()


def test_links_that_stay_and_links_to_themselves(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    refuse_links(tmp_path)
    write_folder(tmp_path / "folder", lambda folder: (folder / "a").write_text("x") and None, {})
    (tmp_path / "folder/loop").symlink_to("loop")
    assert list(read_manifest(tmp_path / "folder")["files"]) == ["a"]


def test_a_report_is_not_written_through_a_link(tmp_path, precious):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/spec.yaml").write_text("train: {stages: [{name: a, trainable: [llm]}]}")
    assert html.write(tmp_path / "run") == tmp_path / "run/report.html"
    (tmp_path / "run/report.html").unlink()
    (tmp_path / "run/report.html").symlink_to(precious)
    with pytest.raises(UserError, match="a symbolic link out of the run folder"):
        html.write(tmp_path / "run")


@pytest.mark.parametrize("name", [LOCK, "row.log"])
def test_a_sweep_appends_to_no_link(tmp_path, precious, name):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).symlink_to(precious)
    with pytest.raises(UserError, match="cannot write"):
        list(Pool(tmp_path / "sweep", 1).run([(["--help"], tmp_path / "sweep/row.log")]))


def log_of(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    return RunLog(tmp_path / "metrics.jsonl")


def test_a_line_longer_than_any_record_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl_log, "MAX_LINE", 100)
    good = json.dumps(RECORD) + "\n"
    log = log_of(tmp_path, good + json.dumps({**RECORD, "name": "x" * 5000}) + "\n" + "y" * 100 + "\n" + good)
    assert log._read() == ([RECORD, RECORD], [2, 3])


def test_what_is_no_log_ends_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl_log, "MAX_UNREAD", 10)
    log = log_of(tmp_path, "\n" * 11)
    with pytest.raises(UserError, match=r"more than 10 lines are no records; move it out of the folder"):
        log.read()
    os.truncate(log.path, jsonl_log.MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"at most \d+ are read; move it out of the folder"):
        log.drop_after(0, 0)
