"""Processes of a sweep, with stand-ins for the runs: how many at a time, what of those that fail, who outlives whom."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlm_core.errors import UserError
from vlm_train.sweep import process_pool
from vlm_train.sweep.process_pool import Pool

CHILD = "import os, sys, time; sys.argv.pop(1); exec(sys.argv[1])"
REAL = (
    "import os, sys, time; from vlm_train.cli import child, main; "
    "main.main = lambda: exec(sys.argv[1]); child.child()"
)
WAIT = "open(sys.argv[2], 'w').write(str(os.getpid())); time.sleep(60)"


@pytest.fixture
def stand_in(monkeypatch):
    """The processes run the Python text that is their first argument."""
    monkeypatch.setattr(process_pool, "_CHILD", CHILD)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_all_run_and_each_has_its_log(stand_in, tmp_path):
    logs = [tmp_path / "out" / name / "seed-0.log" for name in "abc"]
    texts = ["print('one')", "sys.exit('two')", "os.kill(os.getpid(), 9)"]
    jobs = [([text], log) for text, log in zip(texts, logs, strict=True)]
    ended = {log: code for log, code, _ in Pool(tmp_path / "out", 1).run(jobs)}
    assert [ended[log] for log in logs] == [0, 1, -signal.SIGKILL]
    assert [log.read_text() for log in logs] == ["one\n", "two\n", ""]


def test_two_at_a_time_share_the_threads(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    meet = f"""
mine, other = (os.path.join({str(tmp_path)!r}, name) for name in sys.argv[2:])
open(mine, 'w').close()
end = time.monotonic() + 20
while not os.path.exists(other):
    assert time.monotonic() < end, 'alone'
    time.sleep(0.01)
print(os.environ['OMP_NUM_THREADS'])"""
    jobs = [([meet, "x", "y"], tmp_path / "x.log"), ([meet, "y", "x"], tmp_path / "y.log")]
    assert [code for _, code, _ in Pool(tmp_path, 2).run(jobs)] == [0, 0]
    assert (tmp_path / "x.log").read_text() == "3\n"


def test_a_folder_has_one_sweep_at_a_time(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(process_pool, "_LOCK_TIMEOUT", 0.3)
    first = Pool(tmp_path, 1).run([(["pass"], tmp_path / "a.log"), (["pass"], tmp_path / "b.log")])
    next(first)
    with pytest.raises(UserError, match="another sweep, or a run of one, is using"):
        next(Pool(tmp_path, 1).run([(["pass"], tmp_path / "c.log")]))
    assert len(list(first)) == 1
    assert len(list(Pool(tmp_path, 1).run([(["pass"], tmp_path / "c.log")]))) == 1


def test_nothing_runs_on_when_nobody_listens(stand_in, tmp_path):
    pid = tmp_path / "pid"
    jobs = [([WAIT, str(pid)], tmp_path / "a.log"), (["pass"], tmp_path / "b.log")]
    running = Pool(tmp_path, 2).run(jobs)
    next(running)
    _until(pid.exists)
    running.close()
    _until(lambda: not _alive(int(pid.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't tell a process that its parent died")
def test_a_killed_sweep_takes_its_runs_with_it(tmp_path):
    """SIGKILL: no code of the sweep runs, and the folder is free again."""
    pid = tmp_path / "pid"
    jobs = [([WAIT, str(pid)], str(tmp_path / "a.log"))]
    script = (
        "import pathlib; from vlm_train.sweep import process_pool; "
        f"process_pool._CHILD = {REAL!r}; list(process_pool.Pool(pathlib.Path({str(tmp_path)!r}), 1).run("
        f"[(a, pathlib.Path(b)) for a, b in {jobs!r}]))"
    )
    sweep = subprocess.Popen([sys.executable, "-c", script])
    _until(lambda: pid.exists() and pid.read_text())
    sweep.kill()
    sweep.wait()
    _until(lambda: not _alive(int(pid.read_text())))


def test_under_a_launcher_it_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="without torchrun"):
        Pool(tmp_path, 1)


def _alive(pid):
    """Running, and not only waiting for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
