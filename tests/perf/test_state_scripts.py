"""The measurements of states run, on tiny shapes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("perf/state/*.py")))
def test_it_runs(name):
    command = [sys.executable, "-m", f"perf.state.{name}", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| - |") >= 1
