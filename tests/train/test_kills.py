"""A run of two processes that is killed anywhere, and started again, ends as the run that nobody killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deepspeed_there import deepspeed_there, installed

__all__ = ["deepspeed_there", "installed"]

SCRIPT = Path(__file__).with_name("kills_script.py")
KILLS = int(os.environ.get("VLM_KILLS", "6"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3"])
def test_killed_anywhere_equals_left_alone(run_spec, tmp_path, strategy, request):
    """Both stages, dropout, a worker process, a checkpoint every step; `VLM_KILLS` sets how many kills at least."""
    kills = KILLS
    if strategy.startswith("zero"):
        request.getfixturevalue("deepspeed_there")
        kills = max(2, KILLS // 3)  # most of each start is DeepSpeed's import
    path = run_spec(checkpoint_every=1, workers=1, evaluation=None)
    spec = yaml.safe_load(path.read_text())
    for stage in spec["train"]["stages"]:
        stage["steps"] = 5
    path.write_text(yaml.safe_dump(spec))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLM_SCAN_BACKEND": "reference"}
    command = [sys.executable, str(SCRIPT), str(path), str(tmp_path), strategy, str(kills)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= kills
    assert "outlived" not in done.stderr
