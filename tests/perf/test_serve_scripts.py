"""The measurements of the server run, on tiny shapes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cancelled", "gpu_throughput", "image_cache", "json_schema", "sessions", "throughput"]
)
def test_it_runs(name):
    command = [sys.executable, "-m", f"perf.serve.{name}", "--smoke", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| - |") >= 1


@pytest.mark.slow
def test_the_soak_loses_no_request():
    command = [sys.executable, "-m", "perf.serve.soak", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 silent\n" in done.stdout
    assert done.stdout.count("killed worker") == 2
