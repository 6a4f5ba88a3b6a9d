"""A run as one self-contained HTML page: results, curves, throughput, dropped rows, answers, the spec, versions."""

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
from vlm_train.checkpoint.run_dir import DROPPED_SAMPLES, ENVIRONMENT, EVALS, MODEL, SPEC, VALIDATION, RunDir
from vlm_train.evaluation.held_out_answers import normalized
from vlm_train.report import benchmark_table, plots, results

Cell = str | Mapping[str, str]
"""A text; a mapping with `text` and its `style`; or a mapping with the base64 text of a `png`."""
Records = Sequence[Mapping[str, Any]]
THROUGHPUT = ("samples/s", "tokens/s", "data wait", "peak memory", "MFU")


class Table(NamedTuple):
    """Rows, the head first; columns in `text` are aligned left."""

    rows: Sequence[Sequence[Cell]]
    text: Sequence[int] = ()


class Section(NamedTuple):
    """The content under one heading; `curves` are trusted SVG elements, all else is escaped."""

    table: Table | None = None
    notes: Sequence[str] = ()
    curves: Sequence[Any] = ()
    picture: str = ""
    text: str = ""
    title: str = ""


def write(path: Path, out: Path | None = None) -> Path:
    """Write `report.html` into the run folder, or `out`; the run may be unfinished. Raises `UserError`."""
    if not (path / SPEC).is_file():
        raise UserError(
            f"{path}: not a run folder: it has no {SPEC}; give the folder train.output of the run"
        )
    run = RunDir(path)
    out = out or run.inside("report.html") or path / "report.html"
    write_file(out, page(run))
    return out


def page(run: RunDir) -> str:
    """The HTML text of the page; raises `UserError` for an invalid file of the run folder."""
    text = run.text(SPEC) or ""
    where = str(run.path / SPEC)
    spec = run_dir_schemas.checked(yaml_loader.parse(text, where).data, run_dir_schemas.Spec, where)
    metrics, validation, evals = run.metrics(), run.records(VALIDATION), run.records(EVALS)
    sections = {
        "Results": _results(run, spec),
        "Benchmarks during training": _benchmarks(metrics, evals),
        "Stages": _stages(metrics, spec),
        "Curves": _curves(metrics, validation),
        "Dropped rows": _dropped(run.records(DROPPED_SAMPLES)),
        "Answers during training": _answers(validation),
        "Answers after training": _picture(run.inside("samples.png")),
        "Spec": Section(text=text),
        "Versions": _versions(run),
    }
    values = {
        "name": spec.get("name") or run.path.name,
        "state": _state(run, metrics, spec),
        "sections": [section._replace(title=title) for title, section in sections.items() if section],
    }
    return render("vlm_train", "report.html", values)


def _state(run: RunDir, metrics: Records, spec: Mapping[str, Any]) -> str:
    if (run.path / MODEL).exists():
        return f"finished: {len(spec['train']['stages'])} stages, {len(metrics)} steps"
    if not metrics:
        return "not started: no step has finished"
    return f"not finished: stage {metrics[-1]['name']}, step {metrics[-1]['step']}"


def _results(run: RunDir, spec: Mapping[str, Any]) -> Section | None:
    """The table of results of a finished run."""
    table = results.of(run, [stage["name"] for stage in spec["train"]["stages"]]) if run.finished() else []
    if not table:
        return None
    notes = [results.title(table), *results.notes(table)]
    return Section(Table(results.texts(table)), [f"{line[0].upper()}{line[1:]}." for line in notes])


def _stages(metrics: Records, spec: Mapping[str, Any]) -> Section | None:
    rows, before = [], 0
    for number, stage in enumerate(spec["train"]["stages"]):
        steps = [m for m in metrics if m["stage"] == number]
        if not steps:
            continue
        losses = [m["loss"] for m in steps if m["loss"] is not None]
        last = losses[-max(1, len(losses) // 20) :]
        first_loss, last_loss = (f"{losses[0]:.3f}", f"{sum(last) / len(last):.3f}") if losses else ("–", "–")
        skipped, before = steps[-1]["skipped"] - before, steps[-1]["skipped"]
        trainable, count = ", ".join(stage["trainable"]), str(steps[-1]["step"])
        rows.append(
            [stage["name"], trainable, count, first_loss, last_loss, *_throughput(steps), str(skipped)]
        )
    head = ["stage", "trainable", "steps", "first loss", "last loss", *THROUGHPUT, "skipped steps"]
    return Section(Table([head, *rows], text=[1])) if rows else None


def _throughput(steps: Records) -> list[str]:
    """The cells of `THROUGHPUT`: medians over the steps, so that slow first steps don't count, and peak memory."""

    def median(key: str) -> float | None:
        values = sorted(m[key] for m in steps if m.get(key) is not None)
        return values[len(values) // 2] if values else None

    keys = ("samples_per_second", "tokens_per_second", "data_wait", "mfu")
    samples, tokens, wait, mfu = map(median, keys)
    memory = max((m.get("peak_memory", 0) for m in steps), default=0)
    mfu_cell = "–" if mfu is None else f"{mfu:.1%}"
    return [f"{samples or 0:,.1f}", amount(tokens or 0), f"{wait or 0:.1%}", size(memory), mfu_cell]


def _curves(metrics: Records, validation: Records) -> Section | None:
    if not metrics:
        return None
    before = plots.offsets(metrics)
    stages = {m["name"]: before[m["stage"]] for m in metrics}
    losses = {"training": plots.points(metrics, "loss", before)}
    validation_losses = {
        "validation": plots.points(validation, "loss", before),
        "validation, average": plots.points(validation, "average_loss", before),
    }
    losses |= {name: line for name, line in validation_losses.items() if line}
    panels = [plots.curve("Loss", "nats per target token", losses, stages, log=True)]
    for title, unit, key, log in (
        ("Learning rate (largest)", "", "lr", False),
        ("Gradient norm before clipping", "", "grad_norm", True),
        ("Throughput", "tokens/s", "tokens_per_second", False),
        ("Data wait", "share of time", "data_wait", False),
        ("Model FLOPs utilisation", "share of peak", "mfu", False),
    ):
        if line := plots.points(metrics, key, before):
            panels.append(plots.curve(title, unit, {title: line}, stages, log=log))
    return Section(curves=panels)


def _benchmarks(metrics: Records, evals: Records) -> Section | None:
    """The scores at the end of each stage, and a curve for each benchmark with more than one evaluation."""
    if not evals:
        return None
    titles, rows = benchmark_table.table(evals)
    before = plots.offsets(metrics)
    stages = {m["name"]: before[m["stage"]] for m in metrics}
    panels = []
    for name, newest in evals[-1]["benchmarks"].items():
        line = [
            (before.get(m["stage"], 0) + m["step"], benchmark_table.value(m["benchmarks"][name]))
            for m in evals
            if name in m["benchmarks"]
        ]
        heading = f"{name}, {newest['scored']} of {newest['expected']} questions"
        if len(line) > 1:
            panels.append(plots.curve(heading, newest["metric"], {name: line}, stages))
    return Section(Table([titles, *rows]), [benchmark_table.NOTE], panels)


def _dropped(records: Records) -> Section | None:
    if not records:
        return None
    counts = Counter(record["reason"] for record in records)
    examples = {record["reason"]: record["message"] for record in reversed(records)}
    rows = [[reason, str(n), examples[reason]] for reason, n in counts.most_common()]
    return Section(Table([["reason", "rows", "first message"], *rows], text=[2]))


def _answers(validation: Records) -> Section | None:
    """The sample rows of the last validation, with the answers of up to four validations."""
    if not validation or not (last := validation[-1].get("samples")):
        return None
    comparable = [m for m in validation if len(m.get("samples", ())) == len(last)]
    count = len(comparable)
    columns = [comparable[i * (count - 1) // 3] for i in range(4)] if count > 4 else comparable
    head = ["", "question", *(f"{m['name']} {m['step']}" for m in columns), "truth"]
    rows = [
        [_first_image(sample), sample["asked"], *(_answer(m["samples"][i]) for m in columns), sample["truth"]]
        for i, sample in enumerate(last)
    ]
    return Section(Table([head, *rows], text=range(1, len(head))))


def _answer(sample: Mapping[str, Any]) -> Cell:
    right = normalized(sample["said"]) == normalized(sample["truth"])
    return {"text": sample["said"] or "(empty)", "style": "right" if right else "wrong"}


def _first_image(sample: Mapping[str, Any]) -> Cell:
    """The thumbnail of the first image; a text if the run has none, as in runs of earlier versions."""
    if not sample["images"]:
        return ""
    return _embedded(sample["thumbnail"]) if sample.get("thumbnail") else "(no thumbnail)"


def _embedded(text: str) -> Cell:
    try:
        decode_image(base64.b64decode(text, validate=True), "thumbnail")
    except ValueError:  # not base64, or not an image
        return "(damaged)"
    return {"png": text}


def _picture(path: Path | None) -> Section | None:
    """The grid of answers; only a valid image is embedded, since the page may be shared."""
    if path is None:
        return None
    data = read_bytes(path)
    decode_image(data, str(path))
    return Section(picture=base64.b64encode(data).decode())


def _versions(run: RunDir) -> Section | None:
    if (text := run.text(ENVIRONMENT)) is None:
        return None
    try:
        versions = json_object(text, run.path / ENVIRONMENT)
    except UserError as error:
        return Section(notes=[str(error)])
    rows = [[name, str(value)] for name, value in versions.items()]
    return Section(Table([["package", "version"], *rows], text=[1]))
