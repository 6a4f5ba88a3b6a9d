"""Micro-batches, MFU and hours of training by type of GPU, for `vlm-assemble --check --gpus N`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_core.cli.output import say
from vlm_core.cli.tables import add, show, table

if TYPE_CHECKING:
    from vlm_core.diagnose.costs.estimate import CostEstimate, StageEstimate
    from vlm_core.diagnose.costs.gpus import GPU

DEFAULT_SAMPLES = 100_000
"""Samples of a stage whose data are not on this machine."""


def _types(gpu: GPU | None) -> list[GPU]:
    from vlm_core.diagnose.costs.gpus import GPUS

    return [gpu] if gpu else list(GPUS.values())


def print_micro_batches(estimate: CostEstimate, gpu: GPU | None) -> None:
    """The sizes that `micro_batch_size: auto` should find, and what does not fit into `gpu`."""
    stages = [stage for stage in estimate.stages if stage.facts.auto]
    if stages and gpu:
        say("", *(_auto_line(estimate, stage, gpu) for stage in stages))
    elif stages:
        gpus = _types(None)
        longest = stages[0].facts.max_length
        title = f"micro_batch_size: auto, estimated for samples of {longest} positions"
        lines = table(title, "stage", *[gpu.name for gpu in gpus])
        for stage in stages:
            sizes = [estimate.micro_on(stage, gpu) for gpu in gpus]
            add(lines, stage.facts.name, *["none fits" if n is None else str(n) for n in sizes])
        add(lines, "strategy", *[estimate.strategy_on(gpu) for gpu in gpus])
        show(lines)
    say(*_warnings(estimate, gpu))


def _auto_line(estimate: CostEstimate, stage: StageEstimate, gpu: GPU) -> str:
    count, longest = estimate.micro_on(stage, gpu), stage.facts.max_length
    return (
        f"{stage.facts.name}: micro_batch_size: auto: {count or 'not even 1'} on {gpu.name} with "
        f"{estimate.strategy_on(gpu)}, estimated for samples of {longest} positions"
    )


def _warnings(estimate: CostEstimate, gpu: GPU | None) -> list[str]:
    """A line for each stage that by the estimate does not fit into `gpu`, or else into a GPU of this machine."""
    import torch

    from vlm_core.diagnose.costs.fit import Capacity, misfits

    if gpu is None and not torch.cuda.is_available():
        return []
    capacity = Capacity.of(gpu) if gpu else Capacity.of_cuda(torch.device("cuda"))
    strategy = estimate.strategy_on_memory(capacity.memory)
    return [f"warning: {line}" for line in misfits(estimate, strategy, capacity)]


def print_hours(estimate: CostEstimate, gpu: GPU | None) -> None:
    """Hours of each stage, and the MFU that they rest on; `DEFAULT_SAMPLES` where the data are not on this machine."""
    assumptions, gpus = estimate.assumptions, _types(gpu)
    if assumptions.mfu is None:
        _print_mfu(estimate, gpu)
    title = f"hours on {assumptions.gpus} GPU{'s' if assumptions.gpus > 1 else ''}"
    lines = table(title, "stage", "samples", *[gpu.name for gpu in gpus])
    for stage in estimate.stages:
        count = stage.samples or DEFAULT_SAMPLES
        samples = f"{count}" if stage.samples else f"each {DEFAULT_SAMPLES}"
        times = [estimate.hours_on(stage, gpu, count) for gpu in gpus]
        add(lines, stage.facts.name, samples, *["-" if t is None else _hours(t) for t in times])
    show(lines)
    if unknown := [stage.facts.name for stage in estimate.stages if not stage.samples]:
        say(
            "",
            f"the data of {' and '.join(unknown)} are not on this machine; "
            f"give their number of samples with --samples {unknown[0]}=N",
        )


def _hours(time: float) -> str:
    return f"{time:.1f}" if time >= 0.1 else f"{time:.2g}"


def _print_mfu(estimate: CostEstimate, gpu: GPU | None) -> None:
    """The MFU of each stage by GPU, with the tokens of its micro-batch, and where it was measured."""
    gpus, measured = _types(gpu), set()
    cells: list[list[str]] = []
    for stage in estimate.stages:
        cells.append([stage.facts.name])
        for each in gpus:
            use, micro = estimate.utilization_on(stage, each), estimate.micro_on(stage, each)
            if use is None or micro is None:
                cells[-1].append("-")
                continue
            measured.add(use.gpu)
            mark = "" if use.measured else "*"
            cells[-1].append(f"{use.mfu:.0%}{mark} {micro * stage.length / 1e3:.1f}k")
    title = "MFU and tokens of a micro-batch (--mfu X replaces the MFU)"
    lines = table(title, "stage", *[each.name for each in gpus])
    for row in cells:
        add(lines, *row)
    show(lines)
    names = " and ".join(sorted(measured))
    say(
        "",
        f"MFU: VL-Mamba-2.8B measured on {names} at as many tokens; *: assumed to be the same on another GPU",
    )
