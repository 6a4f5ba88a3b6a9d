"""Training steps of VL-Mamba-2.8B on one GPU, random weights: tokens a second, share of the peak, memory as estimated.

    uv run python -m perf.gpu.train [--stages align instruct] [--micro 1 8 16]

The steps are the trainer's own: each stage of the spec trains its parts in bf16 with AdamW and fp32 master weights, one
micro-batch a step, samples of one image and 256 positions of text, as `--check` assumes. *Without the optimizer* leaves
out the update of the weights, which a step of several micro-batches does once. The share of the peak (MFU) divides
`--check`'s FLOPs of such a step by its time and the GPU's peak rate. The estimate is that of `--check --gpus 1`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence

import torch
from perf.lib.common import parser
from perf.lib.gpu import DEVICE, gigabytes, peak, reset, start
from perf.lib.gpu_trained import SMALLEST, SPEC, TEXT, Part, Trained, layers, seconds
from perf.lib.tables import number, ratio, table

from vlm_core.diagnose.costs.estimate import Assumptions, StageEstimate, estimate_costs
from vlm_core.diagnose.costs.gpus import GPUS
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
    """What `--check --gpus 1` knows of each stage, with one sample a micro-batch."""
    stages = [f"train.stages.{number}.micro_batch_size=1" for number in range(2)]
    spec = load_spec(SPEC, ["encoder.pretrained=false", *changes, *stages])[0]
    with torch.device("cpu"):
        return estimate_costs(spec, build_on_meta(spec), Assumptions(text=text)).stages


def expected_memory(advice: StageEstimate, micro: int, strategy: str = "DDP") -> float:
    """Bytes: what one sample keeps for the backward, times their number."""
    memory = advice.memory[strategy]
    return memory.total + (micro - 1) * memory.activations


def percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else ""


def row(trained: Trained, advice: StageEstimate, micro: int, options: argparse.Namespace) -> list[str]:
    name = advice.facts.name
    reset()
    try:
        batches = trained.batches(0, micro, options.text)
        step = seconds(lambda: trained.step(batches), options.rounds)
        highest = peak()
        bare = seconds(lambda: trained.step(batches, update=False), options.rounds, warm_up=1)
    except torch.OutOfMemoryError:
        return [name, str(micro), "does not fit", *[""] * (len(COLUMNS) - 3)]
    flops, expected = micro * advice.flops, expected_memory(advice, micro) / 1e9
    return [
        name,
        str(micro),
        number(step * 1e3),
        number(bare * 1e3),
        number(micro * advice.length / step),
        percent(flops / step / peak_rate()),
        percent(flops / bare / peak_rate()),
        gigabytes(highest),
        number(expected),
        ratio(highest / expected) if math.isfinite(highest) else "",
    ]


def rows(advice: list[StageEstimate], changes: list[str], options: argparse.Namespace) -> Iterator[list[str]]:
    for stage, stage_advice in enumerate(advice):
        if stage_advice.facts.name not in options.stages:
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
    options = start(arguments)
    torch.set_default_device(None)  # the trainer places its tensors itself
    options.text, options.micro = (16, [1, 2]) if options.smoke else (TEXT, options.micro)
    changes = [*(SMALLEST if options.smoke else []), *(layers(options.layers) if options.layers else [])]
    changes += options.set
    title = f"Training on one GPU (median of {options.rounds} steps)"
    table(title, COLUMNS, rows(estimates(changes, options.text), changes, options))


if __name__ == "__main__":
    main()
