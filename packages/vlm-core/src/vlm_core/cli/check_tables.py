"""Options and tables of `vlm-assemble --check`: bases of a spec, weights, downloads, training costs."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from vlm_core.cli import common
from vlm_core.cli.output import inert, say
from vlm_core.errors import UserError
from vlm_core.model_folder.initial_weights import PARTS
from vlm_core.units import amount, size

if TYPE_CHECKING:
    from vlm_core.diagnose.costs.estimate import Assumptions, CostEstimate, StageEstimate
    from vlm_core.diagnose.costs.gpus import GPU
    from vlm_core.io.yaml_loader import Document
    from vlm_core.model import VLM
    from vlm_core.plugins.config import ComponentConfig, Download
    from vlm_core.spec.spec import Spec

WIDTH = 118
DEFAULT_SAMPLES = 100_000
"""Samples of a stage whose data are not on this machine."""
_count = partial(common.count, most=10**9 - 1)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `--check`."""
    group = parser.add_argument_group("training costs, with --check")
    group.add_argument(
        "--gpus", type=_count, metavar="N", help="print FLOPs, memory and hours of training on N GPUs"
    )
    group.add_argument(
        "--gpu", metavar="NAME", help="type of GPU, such as A100-80G; default: all known types"
    )
    group.add_argument(
        "--text-tokens", type=_count, default=256, metavar="N", help="text tokens per sample; default 256"
    )
    group.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="STAGE=N",
        help="number of samples of a stage whose data are not on this machine",
    )
    group.add_argument(
        "--mfu", type=float, default=0.3, metavar="X", help="model FLOPs utilization, 0 to 1; default 0.3"
    )


def print_all(
    spec: Spec, document: Document, model: VLM, assumptions: Assumptions | None, gpu: GPU | None
) -> None:
    """Print the tables after the summary; training costs only with `assumptions`. Uses up the model."""
    print_bases(document)
    print_downloads(spec)
    if assumptions is None:
        print("\n--gpus N adds FLOPs, memory and hours of training on N GPUs")
        return
    from vlm_core.diagnose.costs.estimate import estimate_costs

    print_costs(estimate_costs(spec, model, assumptions), gpu)
    if slow := [part for part in PARTS if _plain_scan_on_cuda(getattr(spec, part))]:
        print(
            f"\n{' and '.join(slow)}: on a GPU the scan runs on plain torch, far below this MFU (docs/costs.md)"
        )


def _plain_scan_on_cuda(config: ComponentConfig) -> bool:
    with suppress(UserError):  # a backend forced on this machine doesn't apply to another
        return config.engine("cuda") == "scan backend torch"
    return False


def table(title: str, *columns: str, right: int = 1) -> Any:
    """A table without borders below an empty line; columns from the `right`-th on are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    above = Text("\n", style="table.title").append_text(inert(title))
    plain = Table(title=above, title_justify="left", box=None, header_style="dim")
    for i, column in enumerate(columns):
        plain.add_column(inert(column), justify="right" if i >= right else "left")
    return plain


def _add(lines: Any, *cells: str) -> None:
    lines.add_row(*map(inert, cells))


def show(lines: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDTH).print(lines)


def print_bases(document: Document) -> None:
    """The chain of base files, and what each file changes in its base."""
    if len(document.layers) < 2:
        return
    say("", f"base: {document.layers[0].file}")
    for layer in document.layers[1:]:
        say(f"  {layer.file} changes{'' if layer.changes else ' nothing'}")
        for change in layer.changes:
            say(f"    {'.'.join(map(str, change.path))}: {_short(change.old)} → {_short(change.new)}")


def _short(value: Any) -> str:
    """A value on one line: a component as its type and keys, a list as its length."""
    if isinstance(value, dict):
        keys = ", ".join(f"{key}: {_short(item)}" for key, item in value.items() if key != "type")
        text = f"{value['type']}{f' ({keys})' if keys else ''}" if "type" in value else f"{{{keys}}}"
    elif isinstance(value, list):
        text = f"list of {len(value)}"
    else:
        text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def print_sources(spec: Spec, model: VLM, *, random_weights: bool = False) -> None:
    """The source of each part's weights, and the encoder's image preprocessing with the source of each value."""
    from vlm_core.model_folder.initial_weights import weight_rows
    from vlm_core.preprocessing import preprocessing_rows

    weights = table("weights", "part", "component", "from", right=9)
    for part, label, source in weight_rows(spec):
        _add(weights, part, label, "random values (--random-weights)" if random_weights else source)
    show(weights)
    rows = preprocessing_rows(model.encoder)
    if not rows:
        say("", f"image preprocessing: not reported by {spec.encoder.type_name()}")
        return
    preprocessing = table("image preprocessing", "encoder", "key", "value", "from", right=9)
    for row in rows:
        _add(preprocessing, *row)
    show(preprocessing)


def print_downloads(spec: Any) -> None:
    """The downloads of a build with weights, by part."""
    rows: list[tuple[str, Download]] = [
        (part, one)
        for part in PARTS
        for config in getattr(spec, part).components()
        for one in config.downloads()
    ]
    if not rows:
        print("\nto download: nothing")
        return
    sums = [one.bytes for _, one in rows if one.bytes]
    downloads = table("to download", "part", "from", "what", "size", right=3)
    for part, one in rows:
        _add(downloads, part, one.source, one.what, size(one.bytes) if one.bytes else "?")
    if len(sums) > 1:
        _add(downloads, "total", "", "", size(sum(sums)))
    show(downloads)


def print_costs(estimate: CostEstimate, gpu: GPU | None) -> None:
    """FLOPs of a sample, memory of a GPU and hours of each stage, for one type of GPU or for all."""
    assumptions = estimate.assumptions
    print(
        f"\nassumed: a sample is an image and {assumptions.text} text tokens (--text-tokens), "
        f"{assumptions.mfu:.0%} MFU (--mfu)"
    )
    _flops(estimate)
    for stage in estimate.stages:
        _memory(stage, assumptions.gpus, gpu)
    if estimate.stages:
        _hours(estimate, gpu)
    _features(estimate)


def _features(estimate: CostEstimate) -> None:
    """The size of a feature cache; the tables don't include what it saves."""
    for stage in estimate.stages:
        if stage.facts.features is not None:
            one = estimate.features * BYTES[stage.facts.features]
            most = f", at most {size(stage.samples * one)} for {stage.samples}" if stage.samples else ""
            say(
                "",
                f"{stage.facts.name}: feature_cache takes {size(one)} per image{most}; the encoder then runs once "
                "per image, but the tables count it for every sample",
            )


def _flops(estimate: CostEstimate) -> None:
    names = [f"training {stage.facts.name}" for stage in estimate.stages]
    flops = table(f"FLOPs per sample of {estimate.length} positions", "part", "forward", *names)
    for part in PARTS:
        trained = [_flop(stage.of_part(part)) for stage in estimate.stages]
        _add(flops, part, _flop(estimate.forward[part].forward), *trained)
    forward = sum(cost.forward for cost in estimate.forward.values())
    _add(flops, "total", _flop(forward), *[_flop(stage.flops) for stage in estimate.stages])
    show(flops)


def _flop(count: float) -> str:
    """`5.92 T`."""
    return f"{count / 1e12:.2f} T" if count >= 1e12 else amount(count).replace(" B", " G")


def _memory(stage: StageEstimate, gpus: int, gpu: GPU | None) -> None:
    facts = stage.facts
    title = f"{facts.name}: memory of each of {gpus} GPUs" if gpus > 1 else f"{facts.name}: memory of one GPU"
    title += f", {facts.precision}, micro-batch of {stage.micro} samples of {stage.length} positions"
    longest = f"if {facts.max_length} long"
    lines = table(title, "", "weights", "gradients", "optimizer", "activations", "total", longest, "fits")
    for name, one in stage.memory.items():
        parts = (one.weights, one.gradients, one.optimizer, one.activations, one.total)
        worst = stage.at_longest[name].total
        _add(
            lines,
            name if gpus > 1 else "",
            *[size(part) for part in parts],
            size(worst),
            _fits(one.total, gpu),
        )
    show(lines)


def _fits(count: float, gpu: GPU | None) -> str:
    """The smallest type of GPU with this much memory, or whether `gpu` has it."""
    from vlm_core.diagnose.costs.gpus import smallest_gpu

    if gpu is not None:
        return f"{gpu.name} {'yes' if gpu.holds(count) else 'NO'}"
    fitting = smallest_gpu(count)
    return fitting.name if fitting else "none"


def _hours(estimate: CostEstimate, gpu: GPU | None) -> None:
    """Hours of each stage; one whose data are not on this machine is estimated for `DEFAULT_SAMPLES`."""
    from vlm_core.diagnose.costs.gpus import GPUS, hours

    assumptions, gpus = estimate.assumptions, [gpu] if gpu else list(GPUS.values())
    title = f"hours on {assumptions.gpus} GPU{'s' if assumptions.gpus > 1 else ''}"
    lines = table(title, "stage", "samples", *[gpu.name for gpu in gpus])
    for stage in estimate.stages:
        count = stage.samples or DEFAULT_SAMPLES
        samples = f"{count}" if stage.samples else f"each {DEFAULT_SAMPLES}"
        times = [hours(count * stage.flops, gpu, assumptions.gpus, assumptions.mfu) for gpu in gpus]
        cells = [f"{time:.1f}" if time >= 0.1 else f"{time:.2g}" for time in times]
        _add(lines, stage.facts.name, samples, *cells)
    show(lines)
    if unknown := [stage.facts.name for stage in estimate.stages if not stage.samples]:
        say(
            "",
            f"the data of {' and '.join(unknown)} are not on this machine; "
            f"give their number of samples with --samples {unknown[0]}=N",
        )


def cost_options(args: Any) -> tuple[Assumptions | None, GPU | None]:
    """The options of training costs; raises `UserError`, before any work, for invalid ones."""
    if args.gpus is None:
        if args.gpu:
            raise UserError(f"--gpu {args.gpu} needs the number of GPUs: add --gpus N")
        return None, None
    if not args.check:
        raise UserError("--gpus needs --check")
    from vlm_core.diagnose.costs.gpus import find_gpu

    return _assumptions(args), find_gpu(args.gpu) if args.gpu else None


def _assumptions(args: Any) -> Assumptions:
    from vlm_core.diagnose.costs.estimate import Assumptions

    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu {args.mfu}: expected a share above 0 and at most 1")
    samples = {}
    for option in args.samples:
        name, equals, number = option.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,15}", number) or not int(number):
            raise UserError(f"--samples {option:.200}: expected STAGE=NUMBER, as in align=558000")
        samples[name] = int(number)
    return Assumptions(args.gpus, args.text_tokens, samples, args.mfu)
