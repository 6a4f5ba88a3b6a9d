"""The batch script for SLURM, executed with an `srun` and a `scontrol` that note what they are told."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "slurm" / "train.sbatch"
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.args
trap 'echo usr1 >> srun.heard; sleep 0.3; exit 75' USR1
for i in $(seq {waits}); do sleep 0.05; done
exit {code}
"""
SCONTROL = """#!/bin/bash
echo "$*" >> scontrol.args
[ "$1" = show ] && printf 'node7\\nnode8\\n'
exit 0
"""


@pytest.fixture
def sbatch(tmp_path):
    """`sbatch(waits, code)`: the script under way, with an srun of so many twentieths of a second."""

    def begin(waits, code):
        for name, text in (("srun", SRUN.format(waits=waits, code=code)), ("scontrol", SCONTROL)):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        env = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_ID": "42",
        }
        return subprocess.Popen(["bash", str(SCRIPT), "my spec.yaml", "--set", "a=b"], cwd=tmp_path, env=env)

    return begin


def told(folder, name):
    return (folder / name).read_text().splitlines() if (folder / name).exists() else []


def test_one_task_a_node_gets_the_rendezvous(sbatch, tmp_path):
    assert sbatch(0, 0).wait(30) == 0
    assert told(tmp_path, "srun.args") == [
        "vlm-train",
        "run",
        "my spec.yaml",
        "--set",
        "a=b",
        "--nnodes",
        "2",
        "--rdzv-endpoint",
        "node7:29500",
        "--rdzv-id",
        "42-0",
    ]
    assert told(tmp_path, "scontrol.args") == ["show hostnames node[7-8]"]


@pytest.mark.parametrize("which", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_srun_and_a_run_that_was_stopped_is_queued_again(sbatch, tmp_path, which):
    running = sbatch(600, 1)
    until = time.monotonic() + 20
    while not told(tmp_path, "srun.args") and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)
    running.send_signal(which)
    assert running.wait(30) == 75
    assert told(tmp_path, "srun.heard") == ["usr1"]
    assert told(tmp_path, "scontrol.args")[1:] == ["requeue 42"]


def test_a_failure_stays_one(sbatch, tmp_path):
    assert sbatch(0, 2).wait(30) == 2
    assert told(tmp_path, "scontrol.args") == ["show hostnames node[7-8]"]
