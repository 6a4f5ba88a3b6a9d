"""Hostile files of four kinds are read or refused: no other exception, no hang, no gigabyte, nothing run or written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "perf" / "fuzz.py"
CRASHES = "the process died: signal 6"


def fuzz(kind, examples, seed=0, *more):
    command = [
        sys.executable,
        SCRIPT,
        kind,
        "--examples",
        str(examples),
        "--seed",
        str(seed),
        "--json",
        *more,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def check(report, examples):
    assert not report["failures"], [
        (failure, f"python perf/fuzz.py {report['kind']} --seed {report['seed']} --only {failure['number']}")
        for failure in report["failures"]
    ]
    assert sum(report["outcomes"].values()) == examples
    assert report["slowest"][0][0] < 2
    assert report["peak_mb"] < max(1000, report["start_mb"] + 400)


@pytest.mark.parametrize("examples", [100, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["specs", "rows"])
def test_hostile_text(kind, examples):
    report = fuzz(kind, examples)
    check(report, examples)
    read = {"specs": "read", "rows": "all rows read"}[kind]
    assert report["outcomes"][read] > 0.03 * examples, (
        "mutations that are too wild never reach what lies behind the first check"
    )


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("archives", 25),
        ("folders", 20),
        pytest.param("archives", 100, marks=pytest.mark.slow),
        pytest.param("folders", 40, marks=pytest.mark.slow),
    ],
)
def test_hostile_archives_and_folders(kind, examples):
    report = fuzz(kind, examples)
    check(report, examples)
    good, least = {"archives": ("all rows read", 2), "folders": ("loaded", 0)}[kind]
    assert report["outcomes"][good] > least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "examples"), [("specs", 2000), ("rows", 2000), ("archives", 1000), ("folders", 1000)]
)
def test_many_examples(kind, examples):
    check(fuzz(kind, examples, 1), examples)


@pytest.mark.slow
def test_an_example_is_the_same_every_time(tmp_path):
    """A failure is repeated by kind, seed and number; `broken` fails on purpose."""
    probe = """
import sys, random, hashlib, tempfile, pathlib
sys.path.insert(0, {perf!r})
from fuzzing.specs import Examples
work = pathlib.Path(sys.argv[1]); (work / "e").mkdir()
examples = Examples(work)
digest = hashlib.sha256()
for number in range(50):
    examples.example(random.Random(f"specs 3 {{number}}"), work / "e")
    for path in sorted((work / "e").iterdir()):
        digest.update(path.read_bytes() if path.is_file() else b"-")
        path.unlink()
print(digest.hexdigest())
""".format(perf=str(ROOT / "perf"))
    digests = set()
    for hash_seed in "12":
        folder = tmp_path / hash_seed
        folder.mkdir()
        command = [sys.executable, "-c", probe, str(folder)]
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


def test_what_breaks_the_promise_is_told(tmp_path):
    """The guard and the judge see an exception, a program, a file outside and a hang for what they are."""
    probe = f"""
import sys, os, pathlib, signal
sys.path.insert(0, {str(ROOT / "perf")!r})
from fuzzing import runner
from fuzzing.guard import Guard
runner.HANG = 0.3
signal.signal(signal.SIGALRM, runner._alarm)
work = pathlib.Path(sys.argv[1]); outside = pathlib.Path(sys.argv[2])
guard = Guard(work); guard.allowed = (str(work),)
def wrong(): {{}}["x"]
def program(): os.system("true"); return ""
def writes(): (outside / "x").write_text("x"); return ""
def hangs():
    while True: pass
def crashes(): os.abort()
def good(): (work / "x").write_text("x"); return "good"
sys.path.insert(0, str(outside)); (outside / "new.py").write_text("")
sys.dont_write_bytecode = False
def imports(): import new; return "good"
for read in (wrong, program, writes, hangs, good, imports):
    print(runner._judge(guard, read, 10**6, False).reason or "-")
reads = [good, crashes, good]
for _, result in runner._apart(lambda number: runner._judge(guard, reads[number], 10**6, False), range(3)):
    print(result.reason or "-")
"""
    outside, work = tmp_path / "outside", tmp_path / "work"
    outside.mkdir()
    work.mkdir()
    command = [sys.executable, "-c", probe, str(work), str(outside)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reasons = done.stdout.splitlines()
    begins = ["KeyError", "os.system", "open of", "still running", "-", "-", "-", CRASHES, "-"]
    assert [reason[: len(begin)] for reason, begin in zip(reasons, begins, strict=True)] == begins
