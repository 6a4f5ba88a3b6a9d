"""The measurements on a GPU start without one, and print their tables with empty cells."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = ("multi_gpu", "decode")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.xslow if path.stem in MINUTES else pytest.mark.slow)
        for path in sorted(ROOT.glob("perf/gpu/*.py"))
    ],
)
def test_it_runs_without_one(name):
    command = [sys.executable, "-m", f"perf.gpu.{name}", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| - |") >= 1
