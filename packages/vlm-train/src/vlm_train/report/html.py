"""A run as one HTML page that needs nothing else: curves, speed, faults, answers, the spec, versions."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm_core.errors import UserError
from vlm_core.io import yaml_loader
from vlm_core.io.atomic import write_file
from vlm_core.io.files import json_object, read_bytes
from vlm_core.io.images import decode_image
from vlm_core.markup.html import render
from vlm_core.units import amount, size
from vlm_train.checkpoint import run_dir_schemas
from vlm_train.checkpoint.run_dir import ENVIRONMENT, EVALS, LEFT_OUT, MODEL, SPEC, VALIDATION, RunDir
from vlm_train.evaluation.held_out_answers import normal
from vlm_train.report import benchmark_table, plots, results

Cell = str | Mapping[str, str]
"""A text; `said` with its `style`; or the base64 text of a `png`."""
Records = Sequence[Mapping[str, Any]]


class Table(NamedTuple):
    """Rows, the head first; columns in `text` are aligned left."""

    rows: Sequence[Sequence[Cell]]
    text: Sequence[int] = ()


class Part(NamedTuple):
    """What stands under one heading; `curves` are SVG elements of our own, all else is text."""

    table: Table | None = None
    notes: Sequence[str] = ()
    curves: Sequence[Any] = ()
    picture: str = ""
    text: str = ""
    title: str = ""


def write(path: Path, out: Path | None = None) -> Path:
    """Write `report.html` into the run folder, or `out`; the run may still be going on. Raises `UserError`."""
    if not (path / SPEC).is_file():
        raise UserError(f"{path}: not a run folder: it has no {SPEC}; name train.output of the spec that ran")
    run = RunDir(path)
    out = out or run.inside("report.html") or path / "report.html"
    write_file(out, page(run))
    return out


def page(run: RunDir) -> str:
    """The whole page as text; raises `UserError` for a file of the folder that is not what a run writes."""
    text = run.text(SPEC) or ""
    where = str(run.path / SPEC)
    spec = run_dir_schemas.checked(yaml_loader.parse(text, where).data, run_dir_schemas.Spec, where)
    metrics, validation, evals = run.metrics(), run.records(VALIDATION), run.records(EVALS)
    parts = {
        "Results": _results(run, spec),
        "Benchmarks while training": _evals(metrics, evals),
        "Stages": _stages(metrics, spec),
        "Curves": _curves(metrics, validation),
        "Data left out": _left_out(run.records(LEFT_OUT)),
        "Answers while training": _answers(validation),
        "Answers after training": _picture(run.inside("samples.png")),
        "Spec": Part(text=text),
        "Versions": _versions(run),
    }
    values = {
        "name": spec.get("name") or run.path.name,
        "state": _state(run, metrics, spec),
        "parts": [part._replace(title=title) for title, part in parts.items() if part],
    }
    return render("vlm_train", "report.html", values)


def _state(run: RunDir, metrics: Records, spec: Mapping[str, Any]) -> str:
    if (run.path / MODEL).exists():
        return f"finished: {len(spec['train']['stages'])} stages, {len(metrics)} steps"
    if not metrics:
        return "no step is done yet"
    return f"not finished: stage {metrics[-1]['name']}, step {metrics[-1]['step']}"


def _results(run: RunDir, spec: Mapping[str, Any]) -> Part | None:
    """The table of a run that is finished."""
    found = results.of(run, [stage["name"] for stage in spec["train"]["stages"]]) if run.finished() else []
    if not found:
        return None
    about = [results.title(found), *results.notes(found)]
    return Part(Table(results.texts(found)), [f"{line[0].upper()}{line[1:]}." for line in about])


def _stages(metrics: Records, spec: Mapping[str, Any]) -> Part | None:
    rows, before = [], 0
    for number, stage in enumerate(spec["train"]["stages"]):
        own = [m for m in metrics if m["stage"] == number]
        if not own:
            continue
        losses = [m["loss"] for m in own if m["loss"] is not None]
        tail = losses[-max(1, len(losses) // 20) :]
        skipped, before = own[-1]["skipped"] - before, own[-1]["skipped"]
        rows.append(
            [stage["name"], ", ".join(stage["trainable"]), str(own[-1]["step"]),
             f"{losses[0]:.3f}" if losses else "–", f"{sum(tail) / len(tail):.3f}" if tail else "–",
             *_speed(own), str(skipped)]
        )  # fmt: skip
    head = ["stage", "trainable", "steps", "first loss", "last loss", "samples/s", "tokens/s", "data wait",
            "peak memory", "MFU", "skipped"]  # fmt: skip
    return Part(Table([head, *rows], text=[1])) if rows else None


def _speed(own: Records) -> list[str]:
    """Medians over the steps, which the slow first ones don't move."""

    def middle(key: str) -> float | None:
        values = sorted(m[key] for m in own if m.get(key) is not None)
        return values[len(values) // 2] if values else None

    samples, tokens, wait, mfu = map(middle, ("samples_per_second", "tokens_per_second", "data_wait", "mfu"))
    memory = max((m.get("peak_memory", 0) for m in own), default=0)
    return [
        f"{samples or 0:,.1f}", amount(tokens or 0), f"{wait or 0:.1%}", size(memory),
        "–" if mfu is None else f"{mfu:.1%}",
    ]  # fmt: skip


def _curves(metrics: Records, validation: Records) -> Part | None:
    if not metrics:
        return None
    before = plots.offsets(metrics)
    stages = {m["name"]: before[m["stage"]] for m in metrics}
    losses = {"training": plots.points(metrics, "loss", before)}
    measured = {
        "validation": plots.points(validation, "loss", before),
        "validation, average": plots.points(validation, "average_loss", before),
    }
    losses |= {name: line for name, line in measured.items() if line}
    panels = [plots.curve("Loss", "nats a target token", losses, stages, log=True)]
    for title, unit, key, log in (
        ("Learning rate (largest)", "", "lr", False),
        ("Gradient norm before clipping", "", "grad_norm", True),
        ("Speed", "tokens/s", "tokens_per_second", False),
        ("Waiting for data", "share of time", "data_wait", False),
        ("Model FLOPs utilisation", "share of peak", "mfu", False),
    ):
        if line := plots.points(metrics, key, before):
            panels.append(plots.curve(title, unit, {title: line}, stages, log=log))
    return Part(curves=panels)


def _evals(metrics: Records, found: Records) -> Part | None:
    """Where the stages ended, and the course of each benchmark asked more than once."""
    if not found:
        return None
    titles, rows = benchmark_table.table(found)
    before = plots.offsets(metrics)
    stages = {m["name"]: before[m["stage"]] for m in metrics}
    panels = []
    for name, newest in found[-1]["benchmarks"].items():
        line = [
            (before.get(m["stage"], 0) + m["step"], benchmark_table.value(m["benchmarks"][name]))
            for m in found
            if name in m["benchmarks"]
        ]
        heading = f"{name}, {newest['scored']} of {newest['expected']} questions"
        if len(line) > 1:
            panels.append(plots.curve(heading, newest["metric"], {name: line}, stages))
    return Part(Table([titles, *rows]), [benchmark_table.NOTE], panels)


def _left_out(found: Records) -> Part | None:
    if not found:
        return None
    counts = Counter(m["reason"] for m in found)
    firsts = {m["reason"]: m["message"] for m in reversed(found)}
    rows = [[reason, str(n), firsts[reason]] for reason, n in counts.most_common()]
    return Part(Table([["reason", "rows", "the first"], *rows], text=[2]))


def _answers(found: Records) -> Part | None:
    """The rows of the last validation, with what was said at a few validations before it."""
    if not found or not (last := found[-1].get("samples")):
        return None
    alike = [m for m in found if len(m.get("samples", ())) == len(last)]
    shown = [alike[i * (len(alike) - 1) // 3] for i in range(4)] if len(alike) > 4 else alike
    head = ["", "question", *(f"{m['name']} {m['step']}" for m in shown), "truth"]
    rows = [
        [_first_image(sample), sample["asked"], *(_said(m["samples"][i]) for m in shown), sample["truth"]]
        for i, sample in enumerate(last)
    ]
    return Part(Table([head, *rows], text=range(1, len(head))))


def _said(sample: Mapping[str, Any]) -> Cell:
    right = normal(sample["said"]) == normal(sample["truth"])
    return {"said": sample["said"] or "(nothing)", "style": "right" if right else "wrong"}


def _first_image(sample: Mapping[str, Any]) -> Cell:
    """The small copy of the first image; a word if the run kept none, as earlier versions did."""
    if not sample["images"]:
        return ""
    return _embedded(sample["thumbnail"]) if sample.get("thumbnail") else "(not kept)"


def _embedded(text: str) -> Cell:
    try:
        decode_image(base64.b64decode(text, validate=True), "thumbnail")
    except ValueError:  # no base64, or no image
        return "(damaged)"
    return {"png": text}


def _picture(path: Path | None) -> Part | None:
    """The grid of answers, if it is an image: what a page embeds is seen by whoever gets the page."""
    if path is None:
        return None
    data = read_bytes(path)
    decode_image(data, str(path))
    return Part(picture=base64.b64encode(data).decode())


def _versions(run: RunDir) -> Part | None:
    if (text := run.text(ENVIRONMENT)) is None:
        return None
    try:
        known = json_object(text, run.path / ENVIRONMENT)
    except UserError as error:
        return Part(notes=[str(error)])
    return Part(Table([["", ""], *([name, str(value)] for name, value in known.items())], text=[1]))
