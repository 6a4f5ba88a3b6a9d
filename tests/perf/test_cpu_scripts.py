"""The measurements on a CPU run, on tiny shapes; what they measure is for a quiet machine."""

import subprocess
import sys
from pathlib import Path

import pytest
from perf.report import SECTIONS

ROOT = Path(__file__).parents[2]


def test_each_script_has_a_section():
    assert set(SECTIONS) == {path.stem for path in (ROOT / "perf" / "cpu").glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_it_runs_and_fills_its_section(name, tmp_path):
    page, plot = tmp_path / "measurements.md", tmp_path / "p.png"
    page.write_text("before\n<!-- measured -->\n<!-- /measured -->\nafter\n")
    report = [sys.executable, "-m", "perf.report", name, "--smoke", "--page", page, "--plot", plot]
    done = subprocess.run([str(part) for part in report], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert f"### {SECTIONS[name]}\n\n`perf/cpu/{name}.py` on " in text
    assert text.rstrip().endswith("after")
    assert name != "length" or plot.stat().st_size > 10_000
