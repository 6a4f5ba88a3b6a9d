"""Options and tables of `vlm-assemble --check`: bases of a spec, weights, downloads, training costs."""

from __future__ import annotations

import argparse
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from vlm_core.cli import check_hours, common
from vlm_core.cli.output import say
from vlm_core.cli.tables import add, show, table
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
        "--mfu", type=float, metavar="X", help="model FLOPs utilization, 0 to 1; default: as measured"
    )
    group.add_argument(
        "--measure",
        action="store_true",
        help="time a few training steps of each stage on this machine: step time, hours, peak memory",
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

    estimate = estimate_costs(spec, model, assumptions)
    print_costs(estimate, gpu)
    if scans := [part for part in PARTS if _scans(getattr(spec, part))]:
        names = " and ".join(scans)
        print(f"\nactivations of {names}: as kept by scan backend {estimate.backend} (that of GPUs)")
    if slow := [part for part in PARTS if _plain_scan_on_cuda(getattr(spec, part))]:
        print(
            f"\n{' and '.join(slow)}: on a GPU the scan runs on plain torch, far below this MFU (docs/costs.md)"
        )


def _plain_scan_on_cuda(config: ComponentConfig) -> bool:
    with suppress(UserError):  # a backend forced on this machine doesn't apply to another
        return config.engine("cuda") == "scan backend torch"
    return False


def _scans(config: ComponentConfig) -> bool:
    """Whether a component has state-space layers."""
    with suppress(UserError, ValueError):
        return config.engine("cpu").startswith("scan backend")
    return False


def print_views(model: VLM) -> None:
    """Views and tokens of the smallest, a usual and the largest image; nothing if every image has one view."""
    counts = model.view_counts
    if counts is None:
        return
    lines = table("views of an image", "", "for example", "tiles", "views", "tokens", right=2)
    for name in ("fewest", "usual", "most"):
        layout = getattr(counts, name)
        (height, width), (rows, columns) = layout.size, layout.grid
        add(
            lines,
            name,
            f"{width}×{height} px",
            f"{rows}×{columns}",
            str(layout.views),
            f"{layout.positions:,}",
        )
    show(lines)


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
        add(weights, part, label, "random values (--random-weights)" if random_weights else source)
    show(weights)
    rows = preprocessing_rows(model.encoder)
    if not rows:
        say("", f"image preprocessing: not reported by {spec.encoder.type_name()}")
        return
    preprocessing = table("image preprocessing", "encoder", "key", "value", "from", right=9)
    for row in rows:
        add(preprocessing, *row)
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
        add(downloads, part, one.source, one.what, size(one.bytes) if one.bytes else "?")
    if len(sums) > 1:
        add(downloads, "total", "", "", size(sum(sums)))
    show(downloads)


def print_costs(estimate: CostEstimate, gpu: GPU | None) -> None:
    """FLOPs of a sample, memory of a GPU and hours of each stage, for one type of GPU or for all."""
    assumptions = estimate.assumptions
    mfu = f", {assumptions.mfu:.0%} MFU (--mfu)" if assumptions.mfu else ""
    print(f"\nassumed: a sample is an image and {assumptions.text} text tokens (--text-tokens){mfu}")
    if any(stage.facts.checkpointing for stage in estimate.stages):
        print("activation checkpointing: layers are computed again in the backward pass")
    _flops(estimate)
    for stage in estimate.stages:
        _memory(estimate, stage, gpu)
    if estimate.stages:
        check_hours.print_micro_batches(estimate, gpu)
        check_hours.print_hours(estimate, gpu)
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
        add(flops, part, _flop(estimate.forward[part].forward), *trained)
    forward = sum(cost.forward for cost in estimate.forward.values())
    add(flops, "total", _flop(forward), *[_flop(stage.flops) for stage in estimate.stages])
    show(flops)


def _flop(count: float) -> str:
    """`5.92 T`."""
    return f"{count / 1e12:.2f} T" if count >= 1e12 else amount(count).replace(" B", " G")


def _memory(estimate: CostEstimate, stage: StageEstimate, gpu: GPU | None) -> None:
    """Memory by strategy; that of `auto` is for the micro-batch that fits `gpu`, or for one sample."""
    facts, gpus, samples = stage.facts, stage.gpus, stage.micro
    title = f"{facts.name}: memory of each of {gpus} GPUs" if gpus > 1 else f"{facts.name}: memory of one GPU"
    fitting = estimate.micro_on(stage, gpu) if facts.auto and gpu else 1
    times = fitting or 1
    title += f", {facts.precision}, micro-batch of {samples * times} samples of {stage.length} positions"
    longest = f"if {facts.max_length} long"
    lines = table(title, "", "weights", "gradients", "optimizer", "activations", "total", longest, "fits")
    for name in stage.memory:
        one = stage.memory[name].of(times)
        parts = (one.weights, one.gradients, one.optimizer, one.activations, one.total)
        worst = stage.at_longest[name].of(times).total
        add(
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


def cost_options(args: Any) -> tuple[Assumptions | None, GPU | None]:
    """The options of training costs; raises `UserError`, before any work, for invalid ones."""
    if args.measure and not args.check:
        raise UserError("--measure needs --check")
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

    if args.mfu is not None and not 0 < args.mfu <= 1:
        raise UserError(f"--mfu {args.mfu}: expected a share above 0 and at most 1")
    return Assumptions(args.gpus, args.text_tokens, samples_by_stage(args), args.mfu)


def samples_by_stage(args: Any) -> dict[str, int]:
    """The options `--samples STAGE=N`; raises `UserError` for another form."""
    samples = {}
    for option in args.samples:
        name, equals, number = option.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,15}", number) or not int(number):
            raise UserError(f"--samples {option:.200}: expected STAGE=NUMBER, as in align=558000")
        samples[name] = int(number)
    return samples
