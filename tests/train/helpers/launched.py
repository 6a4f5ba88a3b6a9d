"""Runs of several processes on one CPU, started as a user starts them."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

PLUGIN = Path(__file__).with_name("trap_plugin.py")


def install_trap(folder):
    """Put the plugin of traps where `PYTHONPATH` finds it as an installed package."""
    shutil.copy(PLUGIN, folder)
    info = folder / "trap_plugin-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trap-plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vlm]\ntrap = trap_plugin\n")


def environment(folder, trap=None):
    dropped = ("VLM_TRAP", "RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS")
    variables = {name: value for name, value in os.environ.items() if name not in dropped}
    return {
        **variables,
        "PYTHONPATH": str(folder),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "VLM_SCAN_BACKEND": "reference",
        **({"VLM_TRAP": trap} if trap else {}),
    }


def begin(spec, *options, trap=None, nproc=2):
    """`vlm-train run spec --nproc 2 …` under way."""
    command = [sys.executable, "-m", "vlm_train", "run", str(spec), "--nproc", str(nproc), *options]
    return subprocess.Popen(
        command, env=environment(spec.parent, trap), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process, within=120):
    """(exit code, stdout, stderr) of a run; nothing of it may live on."""
    out, err = process.communicate(timeout=within)
    return process.returncode, out, err


def living(spec):
    """Processes that work on this spec."""
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        if str(spec) in (process.info["cmdline"] or []):
            processes.append(process)
    return processes


def gone(spec, within=10.0):
    """Whether every process of the spec has ended."""
    until = time.monotonic() + within
    while living(spec) and time.monotonic() < until:
        time.sleep(0.1)
    return not living(spec)


def wait_for_steps(folder, count, within=120):
    """Wait until a run has noted so many steps."""
    path, until = folder / "metrics.jsonl", time.monotonic() + within
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < until, "the run makes no steps"
        time.sleep(0.05)
