"""Training spread over the GPUs of one machine, against one of them: losses, and samples a second.

    uv run python -m perf.gpu.spread [--gpus N]

One process alone, then N that share the model by each strategy of `vlm-train run`: a copy on each (DDP), a shard on
each (FSDP2). Models, optimizers and steps are the
trainer's own; data and weights are random. *Losses*: a small model in fp32; the one process takes every step's samples
as N micro-batches, the N processes one each. *Speed*: bf16 with as many samples a GPU whatever their number, so the
efficiency is that of weak scaling: samples/s of N GPUs, divided by
N times those of one. Without a GPU the processes share the CPU, through gloo.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from perf.lib.common import machine, parser
from perf.lib.gpu import DEVICE, gigabytes, gpu, peak, reset
from perf.lib.gpu_trained import Part, Trained, samples, seconds, tower_and_llm
from perf.lib.tables import number, ratio, table

from vlm_train.distributed import launch, process_group

NAMES = {"auto": "one GPU", "ddp": "DDP", "fsdp2": "FSDP2"}
RATE = 1e-4


class Size(NamedTuple):
    """A model: changes to the spec, text tokens a sample, and samples of each process in the steps of *losses*."""

    changes: list[str]
    text: int
    samples: int


SMALL = Size(
    tower_and_llm("{type: mamba, d_model: 256, n_layer: 4, vocab_size: 1000}", "vit_tiny_patch16_224", 4),
    48,
    8,
)
LARGE = Size(
    tower_and_llm("{type: mamba, d_model: 1024, n_layer: 48, vocab_size: 50280}", "vit_base_patch16_224", 12),
    256,
    32,
)
SMOKE = Size(
    tower_and_llm("{type: mamba, d_model: 32, n_layer: 2, vocab_size: 96}", "vit_tiny_patch16_224", 2, 32),
    9,
    2,
)


class Found(NamedTuple):
    """Of one strategy: all losses; of the large model millions of parameters, and by batch seconds and peak GB."""

    losses: list[float]
    millions: float
    seconds: list[float]
    peaks: list[float]


def measure(name: str, options: Namespace) -> Found:
    """In each process of a group, of which one may be the only member."""
    small, large = (SMOKE, SMOKE) if options.smoke else (SMALL, LARGE)
    exact = Trained(Part(small.changes, strategy=name, precision="fp32"), options.gpus)
    exact.rate(RATE)
    losses = [exact.step(exact.batches(number, small.samples, small.text)) for number in range(options.steps)]
    exact.close()
    del exact
    if options.losses_only:
        return Found(losses, 0.0, [], [])
    fast = Trained(Part(large.changes, strategy=name), options.gpus)
    found = Found(losses, fast.parameters / 1e6, [], [])
    for count in options.samples:
        reset()
        batch = samples(fast.model, count, large.text, seed=0).to(fast.device)
        found.seconds.append(seconds(lambda batch=batch: fast.step([batch]), options.rounds))
        found.peaks.append(peak())
    fast.close()
    return found


def member(options: Namespace) -> None:
    """One process; the first writes down what was found."""
    alone = process_group.place() is None
    found = {name: measure(name, options)._asdict() for name in (("auto",) if alone else options.strategies)}
    device = gpu() if DEVICE.type == "cuda" else machine(torch.get_num_threads())
    if alone or torch.distributed.get_rank() == 0:
        Path(options.member).write_text(json.dumps({"device": device, "found": found}))
    if not alone:
        torch.distributed.destroy_process_group()


def group(nproc: int, options: Namespace, folder: str) -> tuple[str, dict[str, Found]]:
    """Start processes, wait for them; -> their device, what they found by strategy."""
    file = Path(folder) / f"{nproc}.json"
    words = ["-m", "perf.gpu.spread", *sys.argv[1:], f"--gpus={options.gpus}", f"--member={file}"]
    torchrun = ["--standalone", f"--nproc-per-node={nproc}"] if nproc > 1 else []
    threads = options.threads if DEVICE.type == "cpu" else os.cpu_count() or 1
    env = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // nproc))}
    subprocess.run(launch.Plan(torchrun, words, {}).command, check=True, env=env)
    told = json.loads(file.read_text())
    return told["device"], {name: Found(**found) for name, found in told["found"].items()}


def largest_difference(found: list[float], wanted: list[float]) -> float:
    """Relative, over all steps."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True))


def tables(found: dict[str, Found], options: Namespace) -> None:
    one = found["auto"]
    rows = [
        [
            f"{NAMES[n]}, {options.gpus} GPUs",
            f"{largest_difference(found[n].losses, one.losses):.1e}",
            f"{one.losses[0]:.4f}",
            f"{one.losses[-1]:.4f}",
        ]
        for n in options.strategies
    ]
    columns = ["", "largest relative difference", "first loss", "last loss"]
    table(f"Losses of {options.steps} steps against one process, fp32", columns, rows)
    if options.losses_only:
        return
    columns = ["", "efficiency", "samples/s", "peak GB a GPU", "ms a step"]
    title = f"Training of {one.millions:.0f} M parameters, bf16 (median of {options.rounds} steps)"
    table(
        title,
        columns,
        (row(n, f, one, i, options) for i in range(len(options.samples)) for n, f in found.items()),
    )


def row(name: str, found: Found, one: Found, i: int, options: Namespace) -> list[str]:
    gpus, samples, seconds = 1 if found is one else options.gpus, options.samples[i], found.seconds[i]
    share = "" if found is one else ratio(one.seconds[i] / seconds)
    label = f"{samples} samples a GPU, {NAMES[name]}" + ("" if found is one else f", {gpus} GPUs")
    return [label, share, number(gpus * samples / seconds), gigabytes(found.peaks[i]), number(seconds * 1e3)]


def main() -> None:
    arguments = parser(__doc__, rounds=20)
    arguments.add_argument(
        "--gpus", type=int, default=torch.cuda.device_count() or 2, help="GPUs to spread over"
    )
    arguments.add_argument("--samples", type=int, nargs="+", default=[16, 32, 48], help="a GPU, one row each")
    arguments.add_argument("--steps", type=int, default=40, help="whose losses are compared")
    arguments.add_argument("--losses-only", action="store_true", help="leave out the speed")
    arguments.add_argument("--strategies", nargs="+", choices=list(NAMES)[1:], default=["ddp", "fsdp2"])
    arguments.add_argument("--member", help="a file: this is one of the processes, and writes there")
    options: Any = arguments.parse_args()
    if options.smoke:
        options.rounds, options.steps, options.samples = 2, 4, [2]
    if options.member:
        member(options)
        return
    if options.gpus < 2 or options.gpus > torch.cuda.device_count() > 0:
        raise SystemExit(
            f"{torch.cuda.device_count()} GPUs here, to spread over {options.gpus}: at least 2 are needed"
        )
    with tempfile.TemporaryDirectory() as folder:
        device, found = group(1, options, folder)
        found |= group(options.gpus, options, folder)[1]
    print(device)
    tables(found, options)


if __name__ == "__main__":
    main()
