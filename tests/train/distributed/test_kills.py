"""A run of two processes that is killed anywhere, and started again, ends as the run that nobody killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[1] / "helpers" / "kills_script.py"
KILLS = int(os.environ.get("VLM_KILLS", "6"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_killed_anywhere_equals_left_alone(run_spec, tmp_path, strategy):
    """Both stages, dropout, a worker process, a checkpoint every step; `VLM_KILLS` sets how many kills at least."""
    path = run_spec(checkpoint_every=1, num_workers=1, held_out_qa=None)
    spec = yaml.safe_load(path.read_text())
    for stage in spec["train"]["stages"]:
        stage["steps"] = 5
    path.write_text(yaml.safe_dump(spec))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLM_SCAN_BACKEND": "reference"}
    command = [sys.executable, str(SCRIPT), str(path), str(tmp_path), strategy, str(KILLS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= KILLS
    assert "outlived" not in done.stderr
