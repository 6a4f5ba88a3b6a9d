"""Every command that writes can be killed anywhere: the same command goes on, and its result is the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "perf" / "kills.py"


@pytest.mark.slow
def test_commands_that_are_killed_go_on_and_end_as_if_they_had_not_been():
    """Two kills or more of each; `perf/kills.py --kills 100` has more of them."""
    done = subprocess.run([sys.executable, str(SCRIPT), "--kills", "16"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("faults") == 0
    assert told.pop("seed") == 0
    assert set(told) == {"train", "features", "bench", "judge", "predict", "assemble", "export", "sweep"}
    assert all(counts["kills"] >= 2 for counts in told.values()), told
