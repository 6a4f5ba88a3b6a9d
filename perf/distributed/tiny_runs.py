"""Runs of `vlm-train run` on a tiny model and data made on the spot: started, killed, resumed and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import yaml
from perf.kill_cases import TIMELESS, spec, weights

FINAL = 300.0
"""Seconds that a run may take."""


def write_spec(root: Path, steps: int) -> Path:
    """Two stages of `steps` steps, a checkpoint every 5; widths that GPU kernels are made for."""
    root.mkdir(parents=True, exist_ok=True)
    path = spec(root)
    content = yaml.safe_load(path.read_text())
    content["connector"] = {"type": "vss-l2"}
    content["llm"] |= {"d_model": 64, "d_state": 16}
    train = content["train"]
    for key in ("validation", "held_out_qa"):
        del train[key]
    train |= {
        "checkpoint_every": 5,
        "num_workers": 0,
        "precision": "fp32",
    }  # of one GPU and of several to compare
    for stage in train["stages"]:
        stage |= {"steps": steps, "batch_size": 8, "micro_batch_size": 1}
    path.write_text(yaml.safe_dump(content))
    return path


def environment(**variables: str) -> dict[str, str]:
    here = {"HF_HUB_OFFLINE": "1", **variables}
    if not torch.cuda.is_available():
        here |= {"VLM_SCAN_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **here}


class Run(NamedTuple):
    """A command under way, and the run's folder."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def log(self) -> str:
        return self.folder.with_suffix(".log").read_text(errors="replace")[-3000:]


def start(spec: Path, folder: Path, *options: str, **variables: str) -> Run:
    """`vlm-train run spec …` into `folder`; what it prints goes to a file beside it."""
    words = [sys.executable, "-m", "vlm_train", "run", str(spec), "--set", f"train.output={folder}", *options]
    with open(folder.with_suffix(".log"), "ab") as log:
        return Run(
            subprocess.Popen(
                words, env=environment(**variables), stdout=log, stderr=log, start_new_session=True
            ),
            folder,
        )


def finished(run: Run, seconds: float = FINAL) -> Run:
    """Wait for a run that must end well."""
    try:
        code = run.process.wait(seconds)
    except subprocess.TimeoutExpired:
        end(run)
        raise RuntimeError(f"{run.folder.name} takes longer than {seconds:.0f} s: {run.log}") from None
    if code:
        raise RuntimeError(f"{run.folder.name} ended with {code}: {run.log}")
    return run


def metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_steps(run: Run, count: int, seconds: float = FINAL) -> None:
    until = time.monotonic() + seconds
    while len(metrics(run.folder)) < count:
        if run.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{run.folder.name} made no {count} steps: {run.log}")
        time.sleep(0.01)


def living(run: Run) -> list[psutil.Process]:
    """Processes that work on this run."""
    word = f"train.output={run.folder}"
    return [p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or [])]


def rank_process(run: Run, rank: int) -> psutil.Process:
    """The process of a rank: the outermost of those with its number in the environment."""
    for process in psutil.Process(run.process.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process
    raise RuntimeError(f"{run.folder.name} has no rank {rank}: {run.log}")


def gone(run: Run, seconds: float) -> float | None:
    """Seconds until all processes of a run have ended; None if some have not after `seconds`."""
    begin = time.monotonic()
    while run.process.poll() is None or living(run):
        if time.monotonic() - begin > seconds:
            end(run)
            return None
        time.sleep(0.05)
    return time.monotonic() - begin


def end(run: Run) -> None:
    """Kill what is left of a run."""
    for process in living(run):
        process.kill()


def end_all(root: Path) -> None:
    """Kill what is left of all runs in a folder."""
    for process in psutil.process_iter(["cmdline"]):
        if any(str(root) in word for word in process.info["cmdline"] or []) and process.pid != os.getpid():
            process.kill()


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants; torchrun's have sessions of their own."""
    parent = psutil.Process(pid)
    for process in [*parent.children(recursive=True), parent]:
        process.kill()


def same_weights(a: Path, b: Path) -> bool:
    """The final models, bit for bit."""
    return weights(a / "model") == weights(b / "model") != []


def same_metrics(a: Path, b: Path) -> bool:
    """All numbers of all steps that do not tell of time."""
    rows = [[[line[key] for key in TIMELESS] for line in metrics(folder)] for folder in (a, b)]
    return rows[0] == rows[1]


def same_order(a: Path, b: Path) -> bool:
    """Steps, target tokens and learning rates: what depends on which rows a step has."""
    keys = ("stage", "step", "targets", "lr")
    rows = [[[line[key] for key in keys] for line in metrics(folder)] for folder in (a, b)]
    return rows[0] == rows[1]


def largest_difference(a: Path, b: Path, first: int | None = None) -> float:
    """Of all losses, or of the `first`, relative."""
    pairs = list(zip(metrics(a), metrics(b), strict=True))[:first]
    return max(abs(x["loss"] - y["loss"]) / abs(y["loss"]) for x, y in pairs)
