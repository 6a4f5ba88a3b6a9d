"""The tables of `vlm-assemble --check`: where a spec comes from, what it fetches, what it costs."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

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
PER = 100_000
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `--check`."""
    group = parser.add_argument_group("with --check")
    group.add_argument("--gpus", type=int, metavar="N", help="FLOPs, memory and hours of training on N GPUs")
    group.add_argument(
        "--gpu", metavar="NAME", help="of this kind, such as A100-80G; default: all that are known"
    )
    group.add_argument(
        "--text-tokens", type=int, default=256, metavar="N", help="positions of text; default 256"
    )
    group.add_argument(
        "--samples", action="append", default=[], metavar="STAGE=N", help="if the data are elsewhere"
    )
    group.add_argument(
        "--mfu", type=float, default=0.3, metavar="X", help="share of the peak rate; default 0.3"
    )


def print_all(spec: Spec, document: Document, model: VLM, asked: Assumptions | None, gpu: GPU | None) -> None:
    """Everything after the first table; uses the model up. Without `asked` no GPU is spoken of."""
    print_origin(document)
    print_downloads(spec)
    if asked is None:
        print("\n--gpus N adds FLOPs, memory and hours of training on N GPUs")
        return
    from vlm_core.diagnose.costs.estimate import estimate_costs

    print_advice(estimate_costs(spec, model, asked), gpu)
    if slow := [part for part in PARTS if _plain_scan_on_cuda(getattr(spec, part))]:
        print(
            f"\n{' and '.join(slow)}: the scan runs on plain torch on a GPU, far below that share (docs/costs.md)"
        )


def _plain_scan_on_cuda(config: ComponentConfig) -> bool:
    with suppress(UserError):  # a backend forced on this machine says nothing of another
        return config.engine("cuda") == "scan backend torch"
    return False


def table(title: str, *columns: str, right: int = 1) -> Any:
    """A plain table below an empty line; columns from the `right`-th on hold numbers."""
    from rich.table import Table
    from rich.text import Text

    above = Text("\n", style="table.title").append_text(inert(title))
    made = Table(title=above, title_justify="left", box=None, header_style="dim")
    for i, column in enumerate(columns):
        made.add_column(inert(column), justify="right" if i >= right else "left")
    return made


def _add(made: Any, *cells: str) -> None:
    made.add_row(*map(inert, cells))


def show(made: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDTH).print(made)


def print_origin(document: Document) -> None:
    """The chain of bases, and what each file changes in the one below it."""
    if len(document.layers) < 2:
        return
    say("", f"base: {document.layers[0].file}")
    for layer in document.layers[1:]:
        say(f"  {layer.file} changes{'' if layer.changes else ' nothing'}")
        for change in layer.changes:
            say(f"    {'.'.join(map(str, change.path))}: {_short(change.old)} → {_short(change.new)}")


def _short(value: Any) -> str:
    """A value on one line: of a component its type, of a list its length."""
    if isinstance(value, dict):
        rest = ", ".join(f"{key}: {_short(item)}" for key, item in value.items() if key != "type")
        text = f"{value['type']}{f' ({rest})' if rest else ''}" if "type" in value else f"{{{rest}}}"
    elif isinstance(value, list):
        text = f"list of {len(value)}"
    else:
        text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def print_sources(spec: Spec, model: VLM, *, random_weights: bool = False) -> None:
    """Where each part's weights come from, and the facts of the encoder's with the place that each was read."""
    from vlm_core.model_folder.initial_weights import weight_rows
    from vlm_core.preprocessing import preprocessing_rows

    made = table("weights", "part", "component", "from", right=9)
    for part, label, source in weight_rows(spec):
        _add(made, part, label, "random values (--random-weights)" if random_weights else source)
    show(made)
    rows = preprocessing_rows(model.encoder)
    if not rows:
        say("", f"image preprocessing: not reported by {spec.encoder.type_name()}")
        return
    made = table("image preprocessing", "encoder", "key", "value", "from", right=9)
    for row in rows:
        _add(made, *row)
    show(made)


def print_downloads(spec: Any) -> None:
    """What building with weights fetches, by part."""
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
    made = table("to download", "part", "from", "what", "size", right=3)
    for part, one in rows:
        _add(made, part, one.source, one.what, size(one.bytes) if one.bytes else "?")
    if len(sums) > 1:
        _add(made, "total", "", "", size(sum(sums)))
    show(made)


def print_advice(advice: CostEstimate, gpu: GPU | None) -> None:
    """FLOPs of a sample, memory of a GPU, hours of the whole; of one kind of GPU if one is asked for."""
    question = advice.question
    print(
        f"\nassumed: a sample is an image and {question.text} positions of text (--text-tokens), "
        f"{question.mfu:.0%} of the peak rate (--mfu)"
    )
    _flops(advice)
    for stage in advice.stages:
        _memory(stage, question.gpus, gpu)
    if advice.stages:
        _hours(advice, gpu)
    _features(advice)


def _features(advice: CostEstimate) -> None:
    """What keeping features takes, and that the tables know nothing of what it saves."""
    for stage in advice.stages:
        if stage.facts.features is not None:
            one = advice.features * BYTES[stage.facts.features]
            most = f", at most {size(stage.samples * one)} for {stage.samples}" if stage.samples else ""
            say(
                "",
                f"{stage.facts.name}: feature_cache keeps {size(one)} an image{most}; the encoder then runs once "
                "an image, and the tables count it for every sample",
            )


def _flops(advice: CostEstimate) -> None:
    names = [f"training {stage.facts.name}" for stage in advice.stages]
    made = table(f"FLOPs a sample, {advice.length} positions", "part", "forward", *names)
    for part in PARTS:
        trained = [_flop(stage.of_part(part)) for stage in advice.stages]
        _add(made, part, _flop(advice.forward[part].forward), *trained)
    forward = sum(cost.forward for cost in advice.forward.values())
    _add(made, "total", _flop(forward), *[_flop(stage.flops) for stage in advice.stages])
    show(made)


def _flop(count: float) -> str:
    """`5.92 T`."""
    return f"{count / 1e12:.2f} T" if count >= 1e12 else amount(count).replace(" B", " G")


def _memory(stage: StageEstimate, gpus: int, gpu: GPU | None) -> None:
    facts = stage.facts
    title = f"{facts.name}: memory of each of {gpus} GPUs" if gpus > 1 else f"{facts.name}: memory of one GPU"
    title += f", {facts.precision}, {stage.micro} samples of {stage.length} positions at once"
    longest = f"if {facts.max_length} long"
    made = table(title, "", "weights", "gradients", "optimizer", "activations", "total", longest, "fits")
    for name, one in stage.memory.items():
        parts = (one.weights, one.gradients, one.optimizer, one.activations, one.total)
        worst = stage.at_longest[name].total
        _add(
            made,
            name if gpus > 1 else "",
            *[size(part) for part in parts],
            size(worst),
            _fits(one.total, gpu),
        )
    show(made)


def _fits(count: float, gpu: GPU | None) -> str:
    """The smallest GPU that holds it, or whether the one asked for does."""
    from vlm_core.diagnose.costs.gpus import smallest_gpu

    if gpu is not None:
        return f"{gpu.name} {'yes' if gpu.holds(count) else 'NO'}"
    found = smallest_gpu(count)
    return found.name if found else "none"


def _hours(advice: CostEstimate, gpu: GPU | None) -> None:
    """A stage whose data are not here is estimated for 100 000 samples."""
    from vlm_core.diagnose.costs.gpus import GPUS, hours

    question, cards = advice.question, [gpu] if gpu else list(GPUS.values())
    title = f"hours on {question.gpus} GPU{'s' if question.gpus > 1 else ''}"
    made = table(title, "stage", "samples", *[card.name for card in cards])
    for stage in advice.stages:
        count = stage.samples or PER
        told = f"{count}" if stage.samples else f"each {PER}"
        times = [hours(count * stage.flops, card, question.gpus, question.mfu) for card in cards]
        _add(
            made, stage.facts.name, told, *[f"{time:.1f}" if time >= 0.1 else f"{time:.2g}" for time in times]
        )
    show(made)
    if unknown := [stage.facts.name for stage in advice.stages if not stage.samples]:
        say(
            "",
            f"the data of {' and '.join(unknown)} are not here; --samples {unknown[0]}=N says how many there are",
        )


def asked(args: Any) -> tuple[Assumptions | None, GPU | None]:
    """What the command line asks of GPUs; raises `UserError`, before any work, for what means nothing."""
    if args.gpus is None:
        if args.gpu:
            raise UserError(f"--gpu {args.gpu} names a kind; --gpus N says of how many to tell")
        return None, None
    if not args.check:
        raise UserError("--gpus goes with --check")
    from vlm_core.diagnose.costs.gpus import find_gpu

    return _question(args), find_gpu(args.gpu) if args.gpu else None


def _question(args: Any) -> Assumptions:
    from vlm_core.diagnose.costs.estimate import Assumptions

    if not (0 < args.gpus < 10**9 and 0 < args.text_tokens < 10**9 and 0 < args.mfu <= 1):
        raise UserError(
            "--gpus and --text-tokens are at least 1 and below 10^9, and --mfu is above 0 and at most 1"
        )
    samples = {}
    for given in args.samples:
        name, equals, number = given.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,15}", number) or not int(number):
            raise UserError(f"--samples {given:.200}: expected STAGE=NUMBER, as in align=558000")
        samples[name] = int(number)
    return Assumptions(args.gpus, args.text_tokens, samples, args.mfu)
