"""The GPUs of one machine together: losses, speed of the 2.8B, killed runs, two nodes, evaluation.

    uv run python -m perf.gpu.multi_gpu --out FOLDER [--gpus N] [--parts losses speed kills nodes bench]

*losses*: 40 steps in fp32 against one GPU (`spread.py`). *speed*: VL-Mamba-2.8B in bf16, random weights, both stages as
the spec trains them, with as many samples a GPU whatever their number; efficiency is tokens/s of N GPUs over N times
those of one, *plan* the memory that `vlm-train plan` expects. *kills*: SIGKILL to one rank and to the launcher of a
`vlm-train run` on tiny data; resumed on as many GPUs, weights and metrics must be those of a run left alone to the bit,
on one GPU the order of the rows. *nodes*: two nodes of half the GPUs each, by two launchers on this host. *bench*:
`vlm-bench run` on all GPUs against one. Tables go to FOLDER/tables.md as soon as they are there. A part that fails or
takes too long is reported, the others run, and the exit code is 1. Without a GPU the processes share the CPU.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from perf.distributed import model_speed, tiny_runs
from perf.kill_cases import answered, pope
from perf.lib.common import machine, parser
from perf.lib.gpu import DEVICE, gpu
from perf.lib.tables import table

from vlm_train.distributed import launch

Rows = Iterator[Sequence[str]]
LIMITS = {"losses": 120, "speed": 240, "kills": 180, "nodes": 90, "bench": 90}
"""Seconds of each part on GPUs."""
ON_CPU = 10


def command(words: Sequence[str], options: argparse.Namespace, nproc: int = 1, **variables: str) -> str:
    """Run `python words`, with `nproc` > 1 through torchrun -> what it printed; late ones are killed."""
    torchrun = ["--standalone", f"--nproc-per-node={nproc}"] if nproc > 1 else []
    process = subprocess.Popen(
        launch.Plan(torchrun, list(words), {}).command,
        env=tiny_runs.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=max(1.0, options.until - time.monotonic()))
    except subprocess.TimeoutExpired:
        tiny_runs.kill_tree(process.pid)
        out, err = process.communicate()
        err += "\ntoo late, killed"
    with (options.out / "log.txt").open("a") as log:
        log.write(f"$ {' '.join(words)}\n{out}\n{err[-6000:]}\n")
    if process.returncode:
        raise RuntimeError(f"{' '.join(words[:3])} ended with {process.returncode}: {err[-2000:]}")
    return out


def losses(options: argparse.Namespace) -> None:
    words = ["-m", "perf.gpu.spread", "--losses-only", f"--gpus={options.gpus}"]
    print(command([*words, *(["--smoke"] if options.smoke else [])], options))


def speed(options: argparse.Namespace) -> None:
    """Processes write what they have measured after each case, so that a late part keeps the others.

    The expected memory takes minutes on a CPU: it is worked out meanwhile, unless its file is there already.
    """
    smoke = ["--smoke"] if options.smoke else []
    words = ["-m", "perf.distributed.model_speed", *smoke, f"--gpus={options.gpus}", "--file"]
    files = {name: options.out / f"speed-{name}.json" for name in ("plan", "one", "all")}
    plan = [sys.executable, *words, str(files["plan"]), "--plan"]
    no_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    expecting = None if files["plan"].exists() else subprocess.Popen(plan, env=no_gpu)
    try:
        for name, nproc in (("all", options.gpus), ("one", 1)):
            try:
                command([*words, str(files[name])], options, nproc)
            except RuntimeError as error:  # its file has the cases before
                options.faults.append(f"speed, {nproc} GPUs: {error}")
        if expecting:
            expecting.wait(max(1.0, options.until - time.monotonic()))
    except subprocess.TimeoutExpired:
        options.faults.append("speed: the expected memory comes too late")
    finally:
        if expecting:
            expecting.kill()
        title = f"VL-Mamba-2.8B, random weights, bf16, {options.gpus} GPUs"
        table(title, model_speed.COLUMNS, model_speed.rows(files, options.gpus))


def kills(options: argparse.Namespace) -> None:
    columns = [
        "",
        "exit code",
        "all processes ended after",
        "steps kept",
        "weights",
        "metrics",
        "losses within",
    ]
    table("Killed runs of two stages, resumed", columns, killed_rows(options))


def killed_rows(options: argparse.Namespace) -> Rows:
    spec, root = tiny_spec(options), options.folder
    everyone = ["--nproc", str(options.gpus)]
    started = {name: tiny_runs.start(spec, root / name, *everyone) for name in ("alone", "rank", "launcher")}
    ends: dict[str, tuple[int | None, float | None, int]] = {}
    for name in ("rank", "launcher"):
        run = started[name]
        tiny_runs.wait_for_steps(run, options.steps // 2)
        victim = run.process if name == "launcher" else tiny_runs.rank_process(run, options.gpus - 1)
        os.kill(victim.pid, signal.SIGKILL)
    for name in ("rank", "launcher"):
        run, seconds = started[name], tiny_runs.gone(started[name], 60)
        ends[name] = run.process.returncode, seconds, len(tiny_runs.metrics(run.folder))
        if run.process.returncode == 0:
            options.faults.append(f"{name}: the run was complete before it was killed")
    tiny_runs.finished(started["alone"])
    shutil.copytree(root / "rank", root / "rank-one")
    resumed = {name: tiny_runs.start(spec, root / name, *everyone) for name in ("rank", "launcher")}
    resumed["rank-one"] = tiny_runs.start(spec, root / "rank-one", "--nproc", "1")
    for name, run in resumed.items():
        code, seconds, steps = ends[name.removesuffix("-one")]
        tiny_runs.finished(run)
        label = (
            f"SIGKILL to {name.removesuffix('-one')}, resumed on {1 if name == 'rank-one' else options.gpus}"
        )
        ended = "never" if seconds is None else f"{seconds:.1f} s"
        yield [label, str(code), ended, str(steps), *compared(options, run.folder, name != "rank-one")]


def compared(options: argparse.Namespace, folder: Path, to_the_bit: bool) -> list[str]:
    """Against the run left alone: weights, metrics, losses.

    Not to the bit, losses of the first stage are compared: in the second one rounding grows, from 1e-7 to 3e-3 in a
    hundred steps on a CPU as well.
    """
    alone = options.folder / "alone"
    difference = tiny_runs.largest_difference(folder, alone, None if to_the_bit else options.steps)
    same = [tiny_runs.same_weights(folder, alone), tiny_runs.same_metrics(folder, alone)]
    if not to_the_bit:
        same = [True, tiny_runs.same_order(folder, alone) and difference < 1e-4]
    if not all(same):
        options.faults.append(f"{folder.name} differs from the run left alone: {same}, {difference:.1e}")
    words = ["equal to the bit" if to_the_bit else "", "equal" if to_the_bit else "same order of rows"]
    return [*(word if ok else "DIFFERENT" for ok, word in zip(same, words, strict=True)), f"{difference:.1e}"]


def tiny_spec(options: argparse.Namespace) -> Path:
    return tiny_runs.write_spec(options.folder, options.steps)


def left_alone(options: argparse.Namespace) -> Path:
    """The folder of a run on all GPUs that nobody kills, made at first use."""
    folder = options.folder / "alone"
    if not (folder / "model").exists():
        tiny_runs.finished(tiny_runs.start(tiny_spec(options), folder, "--nproc", str(options.gpus)))
    return folder


def nodes(options: argparse.Namespace) -> None:
    left_alone(options)
    spec, half = tiny_spec(options), options.gpus // 2
    port = 29500 + os.getpid() % 1000
    words = ["--nnodes", "2", "--nproc", str(half), "--rdzv-id", "7", "--rdzv-endpoint", f"localhost:{port}"]
    started = []
    for node in range(2):
        mine = ",".join(str(node * half + i) for i in range(half)) if DEVICE.type == "cuda" else ""
        folder = options.folder / "nodes"
        started.append(tiny_runs.start(spec, folder, *words, CUDA_VISIBLE_DEVICES=mine))
    for run in started:
        tiny_runs.finished(run)
    cells = compared(options, started[0].folder, True)
    table(
        "Two nodes on one host, against one node",
        ["", "weights", "metrics", "losses within"],
        [[f"2 launchers of {half} GPUs", *cells]],
    )


def bench(options: argparse.Namespace) -> None:
    model = left_alone(options) / "model"
    pope(options.folder)
    outs = [options.folder / f"bench-{nproc}" for nproc in (1, options.gpus)]
    for out, nproc in zip(outs, (1, options.gpus), strict=True):
        words = ["-m", "vlm_bench.cli.main", "run", str(model), "--benchmarks", "pope"]
        words += ["--data", str(options.folder), "--max-new-tokens", "8", "--out", str(out)]
        command(words, options, nproc)
    answers, score, units = answered(outs[0])
    same = (answers, score, units) == answered(outs[1])
    if not same:
        options.faults.append("the answers of several GPUs are not those of one")
    row = [str(len(answers.splitlines())), "equal" if same else "DIFFERENT", f"{score:.4f}"]
    table(f"POPE on 1 and on {options.gpus} GPUs", ["answers", "answers and score", "score"], [row])


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "losses": losses,
    "speed": speed,
    "kills": kills,
    "nodes": nodes,
    "bench": bench,
}


class Both(io.TextIOBase):
    """Writes to the terminal and to a file."""

    def __init__(self, path: Path) -> None:
        self.terminal, self.file = sys.stdout, path.open("a")

    def write(self, text: str) -> int:
        self.file.write(text)
        self.file.flush()
        return self.terminal.write(text)

    def flush(self) -> None:
        self.terminal.flush()


def run_part(name: str, options: argparse.Namespace) -> None:
    begin = time.monotonic()
    options.until = min(begin + LIMITS[name] * (1 if DEVICE.type == "cuda" else ON_CPU), options.last)
    try:
        PARTS[name](options)
    except Exception as error:
        options.faults.append(f"{name}: {type(error).__name__}: {error}")
        print(f"\n{options.faults[-1]}")
        tiny_runs.end_all(options.folder)
    print(f"\n({name}: {time.monotonic() - begin:.0f} s)", flush=True)


def main() -> int:
    arguments = parser(__doc__, rounds=8)
    arguments.add_argument("--out", type=Path, help="folder of the tables; default: a temporary one")
    arguments.add_argument("--gpus", type=int, default=torch.cuda.device_count() or 2)
    arguments.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    arguments.add_argument("--limit", type=float, default=3600, help="seconds in all")
    options: Any = arguments.parse_args()
    options.last, options.faults = time.monotonic() + options.limit, []
    options.steps = 12 if options.smoke else 100
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder) / "runs"
        options.out = options.out or Path(folder)
        options.out.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(Both(options.out / "tables.md")):  # pyright: ignore[reportArgumentType]
            print(gpu() if DEVICE.type == "cuda" else machine(options.threads), flush=True)
            for name in options.parts:
                run_part(name, options)
        (options.out / "faults.json").write_text(json.dumps(options.faults, indent=1))
    return int(bool(options.faults))


if __name__ == "__main__":
    sys.exit(main())
