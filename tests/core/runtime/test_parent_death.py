"""Processes that end with the one that started them, with stand-ins that import nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlm_core.runtime import parent_death

CHILD = """
import os, sys, time
from vlm_core.runtime import parent_death
if sys.argv[2] == "thread":
    parent_death._set_parent_death_signal = lambda number: False
parent_death.end_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
"""


def alive(pid):
    """Running, and not only waiting for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until_gone(pid):
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("way", ["kernel", "thread"])
def test_a_killed_parent_takes_its_child_with_it(way):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, way], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.communicate()
    until_gone(child)


RANK = """
import os, time
from vlm_bench.cli import main as cli
def run(*args, **kwargs):
    print(os.getpid(), flush=True)
    time.sleep(60)
cli.run = run
cli.main([])
"""


def test_a_process_of_a_benchmark_ends_with_torchrun():
    env = {**os.environ, "TORCHELASTIC_RUN_ID": "1"}
    env.pop(parent_death.LAUNCHER, None)
    command = [sys.executable, "-c", PARENT, RANK, ""]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    rank = int(launcher.stdout.readline())
    launcher.kill()
    launcher.communicate()
    until_gone(rank)


@pytest.mark.parametrize("way", ["kernel", "thread"])
def test_a_parent_that_is_gone_before_the_child_asks(way):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run([sys.executable, "-c", CHILD, str(gone.pid), way], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert alive(os.getpid())
