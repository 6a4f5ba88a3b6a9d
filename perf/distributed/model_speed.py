"""The speed part of `perf/gpu/multi_gpu.py`: one process of a group, or alone, or the memory that is expected.

python -m perf.distributed.model_speed --file FILE --gpus N [--plan]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from perf.gpu.train import estimates, peak_rate, percent
from perf.lib.gpu import peak, reset
from perf.lib.gpu_contests import cell, quotient
from perf.lib.gpu_trained import SMALLEST, SPEC, TEXT, Part, Trained, seconds
from perf.lib.tables import number

from vlm_core.diagnose.costs.training_memory import Memory
from vlm_core.spec.spec import load_spec
from vlm_train.cli.plan import plan
from vlm_train.config.section import train_section
from vlm_train.distributed import process_group

COLUMNS = [
    "stage",
    "strategy",
    "samples a GPU",
    "GPUs",
    "ms a step",
    "tokens/s",
    "efficiency",
    "MFU",
    "peak GB a GPU",
    "plan, GB",
]


class Case(NamedTuple):
    """A stage with its strategy, and samples a GPU."""

    name: str
    stage: int
    strategy: str
    samples: tuple[int, ...]


FULL = [Case("align", 0, "ddp", (8, 16)), Case("instruct", 1, "fsdp2", (8, 16))]
SMOKE = [Case("align", 0, "ddp", (2,)), Case("instruct", 1, "fsdp2", (2,))]


def measure(options: argparse.Namespace) -> None:
    """In each process; the first writes after each case."""
    here, results = process_group.place(), {}
    text, changes = (16, SMALLEST) if options.smoke else (TEXT, [])
    for case in SMOKE if options.smoke else FULL:
        reset()
        trained = Trained(Part(changes, case.stage, "auto" if here is None else case.strategy), options.gpus)
        length = trained.model.image_tokens_by_default + text
        for count in case.samples:
            reset()
            batches = trained.batches(0, count, text)[:1]
            step = seconds(lambda t=trained, b=batches: t.step(b), options.rounds)
            results[f"{case.name} {count}"] = {"seconds": step, "peak": peak(), "length": length}
            if here is None or here.rank == 0:
                options.file.write_text(json.dumps({"rate": peak_rate(), "cases": results}))
        trained.close()
        del trained
    if here is not None:
        torch.distributed.destroy_process_group()


def expect(options: argparse.Namespace) -> None:
    """FLOPs of a sample and memory of a process, by stage; activations are for one sample."""
    text, changes = (16, SMALLEST) if options.smoke else (TEXT, [])
    result = {}
    advice = estimates(changes, text)
    for case in SMOKE if options.smoke else FULL:
        of_stage = advice[case.stage]
        settings = [f"train.strategy={case.strategy}", f"train.max_length={of_stage.length}"]
        for i in range(len(advice)):
            sizes = {"batch_size": options.gpus, "micro_batch_size": 1}
            settings += [f"train.stages.{i}.{key}={value}" for key, value in sizes.items()]
        spec, document = load_spec(SPEC, ["encoder.pretrained=false", *changes, *settings])
        planned = plan(spec, train_section(spec, document), options.gpus)
        memory = next(each.memory for each in planned if each.name == case.name)
        result[case.name] = {
            "length": of_stage.length,
            "flops": of_stage.flops,
            "all": asdict(memory),
            "one": asdict(of_stage.memory["DDP"]),
        }
        options.file.write_text(json.dumps(result))


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def rows(files: Mapping[str, Path], gpus: int) -> Iterator[list[str]]:
    """The table of what the files hold."""
    expected, one, many = (read(files[name]) for name in ("plan", "one", "all"))
    cases = {case.name: case for case in FULL}
    for key in one.get("cases", {}) | many.get("cases", {}):
        name, count = key.split()[0], int(key.split()[1])
        alone = one.get("cases", {}).get(key)
        for found, count_gpus, which in ((one, 1, "one"), (many, gpus, "all")):
            if not (measured := found.get("cases", {}).get(key)):
                continue
            tokens = count_gpus * count * measured["length"] / measured["seconds"]
            base = count * measured["length"] / alone["seconds"] if alone else math.nan
            facts = expected.get(name)
            flops = facts["flops"] * count / measured["seconds"] if facts else math.nan
            memory = Memory(**facts[which]).of(count).total if facts else math.nan
            yield [
                name,
                cases[name].strategy if count_gpus > 1 else "alone",
                str(count),
                str(count_gpus),
                number(measured["seconds"] * 1e3),
                number(tokens),
                quotient(tokens, count_gpus * base) if count_gpus > 1 else "",
                percent(flops / found["rate"]),
                cell(measured["peak"]),
                cell(memory / 1e9),
            ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--file", type=Path, required=True)
    arguments.add_argument("--gpus", type=int, required=True)
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--plan", action="store_true")
    arguments.add_argument("--smoke", action="store_true")
    options = arguments.parse_args()
    (expect if options.plan else measure)(options)


if __name__ == "__main__":
    main()
