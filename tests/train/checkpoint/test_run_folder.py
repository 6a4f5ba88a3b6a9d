"""A run's folder after kills, power cuts and on full disks: it is resumed, or refused by name."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from resume_helpers import go

from vlm_core.errors import UserError
from vlm_train.checkpoint import jsonl_log
from vlm_train.checkpoint.run_dir import EVALS, INPUTS, LOCK, METRICS, SPEC, RunDir, is_own
from vlm_train.monitoring.trackers import Trackers
from vlm_train.report.html import write as write_report


def line(step, **more):
    return {"stage": 0, "name": "align", "step": step, "loss": 1.5, "lr": {"llm": 0.1}, "skipped": 0, **more}


OWN = {
    "the lock": lambda run: (run / LOCK).write_text("pid 1"),
    "half a spec": lambda run: (run / ".spec.yaml.0123abcd.tmp").write_text("name: ti"),
    "half of other files": lambda run: (run / ".inputs.json.0123abcd.tmp").write_text("{"),
    "inputs": lambda run: (run / INPUTS).write_text("{"),
    "an environment": lambda run: (run / "environment.json").write_text(""),
    "half a tokenizer": lambda run: (run / ".tokenizer.0123abcd.tmp").mkdir(),
    "a tokenizer": lambda run: (run / "tokenizer").mkdir(),
    "a tokenizer that is a file": lambda run: (run / "tokenizer").write_text(""),
    "no checkpoint yet": lambda run: (run / "checkpoints").mkdir(),
    "half a checkpoint": lambda run: (run / "checkpoints" / ".00-align-00000002.0123abcd.tmp").mkdir(
        parents=True
    ),
    "features": lambda run: (run / "features").mkdir(),
    "the shell's": lambda run: [
        (run / name).write_text("x") for name in ("log.txt", "run.log", "slurm-1.out")
    ],
    "an empty spec": lambda run: (run / SPEC).write_text(""),
    "half a spec in place": lambda run: (run / SPEC).write_text("name: [ti"),
    "a spec that is none": lambda run: (run / SPEC).write_bytes(b"\xff\0"),
    "empty logs": lambda run: [(run / name).write_bytes(b"\0\0\0}\n") for name in (METRICS, EVALS)],
}


def test_what_a_kill_leaves_before_the_first_checkpoint_is_no_obstacle(own_spec, tmp_path):
    """All of it at once, then a whole run; each alone must let the folder be claimed."""
    for make in OWN.values():
        run = tmp_path / "one"
        run.mkdir()
        make(run)
        claimed = RunDir(run)
        claimed.open()
        claimed.close()
        shutil.rmtree(run)
    (tmp_path / "run").mkdir()
    for name, make in OWN.items():
        if name != "a tokenizer":
            make(tmp_path / "run")
    folder, _ = go(own_spec)
    assert [m["step"] for m in folder.metrics()] == [1, 2, 3, 4]
    assert yaml.safe_load((folder.path / SPEC).read_text())["name"] == "tiny"


@pytest.mark.parametrize(
    "name", ["thesis.tex", ".bashrc", ".thesis.tex.0123abcd.tmp", "spec.yml", "photos", ".tmp"]
)
def test_other_files_are_not_a_run(tmp_path, name):
    assert not is_own(name)
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"holds other files, such as "):
        RunDir(tmp_path).open()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "make", [os.mkdir, lambda path: path.symlink_to("/dev/full")], ids=["folder", "full"]
)
def test_a_lock_that_cannot_be_written(tmp_path, make):
    make(tmp_path / LOCK)
    with pytest.raises(
        UserError, match=r"\.lock: cannot write: (Is a directory|Invalid argument|No space left)"
    ):
        RunDir(tmp_path).open()


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", "x" * 300, "/dev/null/run"])
def test_outputs_that_no_folder_can_be(path):
    with pytest.raises(UserError):
        RunDir(path).open()


def test_a_model_folder_and_a_spec_of_ones_own_are_no_runs(own_spec, tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "run")
    before = (tmp_path / "run" / SPEC).read_text()
    with pytest.raises(UserError, match=r"holds other files, such as README\.md"):
        go(own_spec)
    assert (tmp_path / "run" / SPEC).read_text() == before
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SPEC).write_text("# mine\nname: other\n")
    with pytest.raises(UserError, match="holds a different run"):
        go(own_spec)
    assert (tmp_path / "run" / SPEC).read_text() == "# mine\nname: other\n"


UNREAD = [
    b'{"stage": 0, "name": "align", "step": 2, "lr": {"llm": 0.1}',
    b"\xff\xfe}",
    b"\0\0\0",
    b"[]",
    b"3",
    b"{}",
    b'{"stage": "0", "step": 2}',
    b"[" * 100_000,
    b'{"stage": 0, "step": 1, "loss": NaN}',
]


@pytest.mark.parametrize("last", [True, False])
def test_lines_that_cannot_be_read_are_left_out_told_once_and_forgotten(tmp_path, caplog, last):
    run = RunDir(tmp_path)
    run.log(line(1), line(2))
    whole = (tmp_path / METRICS).read_bytes()
    half = b"\n".join(UNREAD) + (b"" if last else b"\n")
    (tmp_path / METRICS).write_bytes(whole + half)
    again = RunDir(tmp_path)
    again.log(line(3))
    for _ in range(3):
        assert [m["step"] for m in again.metrics()] == [1, 2, 3]
    assert caplog.text.count(f"{len(UNREAD)} lines can't be read and are left out, the first is line 3") == 1
    again.drop_after(0, 2)
    assert (tmp_path / METRICS).read_bytes() == whole
    caplog.clear()
    assert len(RunDir(tmp_path).metrics()) == 2
    assert not caplog.text


def full(monkeypatch, but=0):
    """A disk that takes some bytes more."""
    write, room = os.write, [but]

    def limited(handle, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(handle, data[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", limited)


def test_lines_wait_for_a_full_disk_to_take_them(tmp_path, caplog, monkeypatch):
    run = RunDir(tmp_path)
    run.log(line(1))
    with monkeypatch.context() as patch:
        full(patch, but=20)  # half a line, which is taken back
        for step in (2, 3):
            run.log(line(step))
        run.log({**line(3), "weights": "own", "benchmarks": {}}, name=EVALS)
        assert [m["step"] for m in run.metrics()] == [1, 2, 3], "also those that wait"
        assert (tmp_path / METRICS).read_text() == json.dumps(line(1)) + "\n"
    assert caplog.text.count("metrics.jsonl: cannot write: No space left on device") == 1
    assert caplog.text.count("evals.jsonl: cannot write: No space left on device") == 1
    run.log(line(4))
    assert [m["step"] for m in RunDir(tmp_path).metrics()] == [1, 2, 3, 4]
    run.close()
    assert len(RunDir(tmp_path).records(EVALS)) == 1
    assert "never written" not in caplog.text


def test_lines_that_were_never_written_are_told_at_the_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(jsonl_log, "WAITING_LINES", 3)
    run = RunDir(tmp_path)
    full(monkeypatch)
    for step in range(5):
        run.log(line(step))
    assert [m["step"] for m in run.metrics()] == [2, 3, 4]
    run.close()
    assert "metrics.jsonl: 5 lines were never written: No space left on device" in caplog.text


def test_a_run_trains_on_while_logs_and_pictures_cannot_be_written(own_spec, tmp_path, monkeypatch, caplog):
    """The table is what results stand on: without it the run is not finished, and the same command goes on."""
    for name in ("curves.png", "samples.png", "results.md"):
        (tmp_path / "run" / name).mkdir(parents=True)

    def unwritable(path, data):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(jsonl_log, "_append", unwritable)
    with pytest.raises(UserError, match=r"results\.md: cannot write: Is a directory"):
        go(own_spec)
    assert caplog.text.count("metrics.jsonl: cannot write: read-only") == 1
    assert "metrics.jsonl: 4 lines were never written: read-only" in caplog.text
    (tmp_path / "run" / "results.md").rmdir()
    assert go(own_spec)[0].finished()
    for name in ("curves.png", "samples.png"):
        assert f"{name}: cannot write: Is a directory" in caplog.text


@pytest.mark.parametrize("name", ["spec.yaml", INPUTS, "environment.json"])
def test_what_must_be_written_is_a_users_error(own_spec, tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{name}: cannot write: Is a directory"):
        go(own_spec)


def test_an_evaluation_that_cannot_be_written(tmp_path):
    (tmp_path / "evaluations").write_text("")
    with pytest.raises(UserError, match=r"after a\.json: cannot write: (File exists|Not a directory)"):
        RunDir(tmp_path).keep_evaluation("after a", {})


def test_evaluations_that_cannot_be_read_are_asked_again(own_spec, tmp_path, caplog):
    folder, results = go(own_spec)
    file = folder.path / "evaluations" / "after instruct.json"
    whole = file.read_text()
    flipped = whole.replace('"questions": 18', '"questions": 19')
    assert flipped != whole
    for content in (b"", whole[:-9].encode(), b"\xff", b"{}", flipped.encode()):
        file.write_bytes(content)
        assert RunDir(folder.path).evaluation("after instruct") is None
    caplog.clear()
    _, told = go(own_spec)
    assert caplog.text.count("after instruct.json: damaged") == 1
    assert told == results
    assert file.read_text() == whole
    file.unlink()
    file.mkdir()
    assert RunDir(folder.path).evaluation("after instruct") is None


def test_a_report_of_a_damaged_run(begun, tmp_path, capsys):
    run = tmp_path / "run"
    spec = (run / SPEC).read_text()
    with (run / METRICS).open("ab") as file:
        file.write(b'{"stage": 0, "lr": {}}\n\xff}')
    (run / "environment.json").write_text("{")
    write_report(run)
    page = (run / "report.html").read_text()
    assert "environment.json: not JSON" in page
    for text in ("", "a: [", "- 3", "train: 3", "train: {stages: [3]}"):
        (run / SPEC).write_text(text)
        with pytest.raises(UserError, match=r"spec\.yaml"):
            write_report(run)
    assert (run / "report.html").read_text() == page
    (run / SPEC).write_text(spec)
    for out in ("/dev/full", tmp_path, "/dev/null/x", "a\0b"):
        with pytest.raises(UserError, match="cannot write"):
            write_report(run, Path(out))


def test_a_tracker_that_cannot_write_hears_no_more(tmp_path, caplog):
    trackers = Trackers([], tmp_path, {}, [0], 0)
    heard = []

    def fails(values, step):
        heard.append(step)
        raise OSError(errno.ENOSPC, "full")

    trackers.writers["tensorboard"] = fails
    for step in (1, 2):
        trackers(METRICS, line(step))
    assert heard == [1]
    assert (
        caplog.text.count("tensorboard: cannot write: full; it receives no further records of this run") == 1
    )
