"""The measurements run, on tiny shapes; what they measure is for a quiet machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_script_runs_and_fills_its_section(tmp_path):
    page = tmp_path / "measurements.md"
    page.write_text("before\n<!-- measured -->\n<!-- /measured -->\nafter\n")
    report = [sys.executable, "-m", "perf.report", "--smoke", "--page", page, "--plot", tmp_path / "p.png"]
    done = subprocess.run([str(part) for part in report], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    scripts = set(re.findall(r"`perf/cpu/(\w+)\.py`", text))
    assert scripts == {
        "scan",
        "accuracy",
        "mixer",
        "prefill",
        "decode",
        "connectors",
        "length",
        "full_size",
        "feature_cache",
        "loader",
        "prefix_reuse",
    }
    assert text.startswith("before\n")
    assert text.rstrip().endswith("after")
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("perf/gpu/*.py")))
def test_scripts_for_a_gpu_run_without_one(name):
    command = [sys.executable, "-m", f"perf.gpu.{name}", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| - |") >= 1
