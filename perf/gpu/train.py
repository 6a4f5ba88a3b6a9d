"""Training steps of VL-Mamba-2.8B on one GPU, random weights: tokens a second, share of the peak, memory as estimated.

    uv run python -m perf.gpu.train [--stages align instruct] [--micro 1 8 16]

The steps are the trainer's own: each stage of the spec trains its parts in bf16 with AdamW and fp32 master weights, one
micro-batch a step, samples of one image and 256 positions of text, as `--check` assumes. *Without the optimizer* leaves
out the update of the weights, which a step of several micro-batches does once. The share of the peak (MFU) divides
`--check`'s FLOPs of such a step by its time and the GPU's peak rate. The estimate is that of `--check --gpus 1`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from perf.lib.common import parser
from perf.lib.gpu import DEVICE, gigabytes, peak, reset, start
from perf.lib.gpu_trained import SMALLEST, SPEC, TEXT, Part, Trained, layers, seconds
from perf.lib.tables import number, ratio, table

from vlm_core.diagnose.costs.estimate import Assumptions, StageEstimate, estimate_costs
from vlm_core.diagnose.costs.gpus import GPUS
from vlm_core.diagnose.costs.training_memory import Memory
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.spec.spec import load_spec

COLUMNS = [
    "stage",
    "micro-batch",
    "ms a step",
    "ms without the optimizer",
    "tokens/s",
    "MFU",
    "MFU without the optimizer",
    "peak GB",
    "estimate GB",
    "peak / estimate",
]


def peak_rate() -> float:
    """FLOP/s by the maker's data sheet; nan for a device that the table doesn't name."""
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else ""
    words = name.replace("-", " ").split()
    return next((g.peak for g in GPUS.values() if g.name.split("-")[0] in words), math.nan)


def estimates(changes: Sequence[str], text: int) -> list[StageEstimate]:
    """What `--check --gpus 1` knows of each stage, with one sample a step."""
    sizes = ("batch_size", "micro_batch_size")
    stages = [f"train.stages.{number}.{size}=1" for number in range(2) for size in sizes]
    spec = load_spec(SPEC, ["encoder.pretrained=false", *changes, *stages])[0]
    with torch.device("cpu"):
        return estimate_costs(spec, build_on_meta(spec), Assumptions(text=text)).stages


class Expected(NamedTuple):
    """Of a stage: positions and FLOPs of a sample, and the memory of a step of one sample."""

    name: str
    length: int
    flops: float
    one: Memory

    def memory(self, micro: int) -> float:
        """Bytes for a step of one micro-batch."""
        return self.one.of(micro).total


def expected(changes: Sequence[str], options: argparse.Namespace) -> list[Expected]:
    """From the file that `perf.distributed.model_speed --plan` wrote, else worked out, which takes minutes."""
    if options.estimates:
        stages = json.loads(options.estimates.read_text())
        return [Expected(n, s["length"], s["flops"], Memory(**s["one"])) for n, s in stages.items()]
    stages = estimates(changes, options.text)
    return [Expected(s.facts.name, s.length, s.flops, s.memory["DDP"]) for s in stages]


def percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else ""


def row(trained: Trained, advice: Expected, micro: int, options: argparse.Namespace) -> list[str]:
    name = advice.name
    reset()
    try:
        batches = trained.batches(0, micro, options.text)
        step = seconds(lambda: trained.step(batches), options.rounds)
        highest = peak()
        bare = seconds(lambda: trained.step(batches, update=False), options.rounds, warm_up=1)
    except torch.OutOfMemoryError:
        return [name, str(micro), "does not fit", *[""] * (len(COLUMNS) - 3)]
    flops, memory = micro * advice.flops, advice.memory(micro) / 1e9
    return [
        name,
        str(micro),
        number(step * 1e3),
        number(bare * 1e3),
        number(micro * advice.length / step),
        percent(flops / step / peak_rate()),
        percent(flops / bare / peak_rate()),
        gigabytes(highest),
        number(memory),
        ratio(highest / memory) if math.isfinite(highest) else "",
    ]


def rows(advice: list[Expected], changes: list[str], options: argparse.Namespace) -> Iterator[list[str]]:
    for stage, stage_advice in enumerate(advice):
        if stage_advice.name not in options.stages:
            continue
        reset()
        trained = Trained(Part(changes, stage))
        for micro in options.micro:
            yield row(trained, stage_advice, micro, options)
        trained.close()
        del trained


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the spec")
    arguments.add_argument("--stages", nargs="+", default=["align", "instruct"])
    arguments.add_argument("--micro", type=int, nargs="+", default=[1, 8, 16], help="samples a micro-batch")
    arguments.add_argument("--layers", type=int, help="fewer layers of the language model, to try the script")
    arguments.add_argument("--estimates", type=Path, help="a file of `perf.distributed.model_speed --plan`")
    options = start(arguments)
    torch.set_default_device(None)  # the trainer places its tensors itself
    options.text, options.micro = (16, [1, 2]) if options.smoke else (TEXT, options.micro)
    changes = [*(SMALLEST if options.smoke else []), *(layers(options.layers) if options.layers else [])]
    changes += options.set
    title = f"Training on one GPU (median of {options.rounds} steps)"
    table(title, COLUMNS, rows(expected(changes, options), changes, options))


if __name__ == "__main__":
    main()
