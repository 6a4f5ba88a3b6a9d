"""A run as one HTML page that needs nothing else: curves, speed, faults, answers, the spec, versions."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_core.atomic import write_file
from vlm_core.cli.common import amount, size
from vlm_core.errors import UserError
from vlm_core.files import json_object, read_bytes, read_text
from vlm_core.images import thumbnail
from vlm_core.printable import printable
from vlm_core.yaml_loader import parse
from vlm_train import eval_results, figures, results
from vlm_train.answers import normal
from vlm_train.run_records import Record
from vlm_train.rundir import ENVIRONMENT, EVALS, LEFT_OUT, MODEL, SPEC, VALIDATION, RunDir

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p.state { color: #555; margin-top: .2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #e3e3e3; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
th { font-weight: 600; border-bottom: 1px solid #999; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: .5rem 1.5rem; }
.curves svg { width: 100%; height: auto; }
td img { max-width: 96px; max-height: 96px; display: block; border: 1px solid #ddd; } img.grid { max-width: 100%; }
pre { background: #f6f6f4; padding: 1rem; overflow-x: auto; font-size: 13px; line-height: 1.4; }
.right { color: #15803d; } .wrong { color: #b91c1c; }
"""
Row = Sequence[str]


def write(path: Path, out: Path | None = None) -> Path:
    """Write `report.html` into the run folder, or `out`; the run may still be going on. Raises `UserError`."""
    if not (path / SPEC).is_file():
        raise UserError(f"{path}: not a run folder: it has no {SPEC}; name train.output of the spec that ran")
    out = out or path / "report.html"
    write_file(out, page(RunDir(path)))
    return out


def page(run: RunDir) -> str:
    """The whole page as text."""
    text = read_text(run.path / SPEC)
    spec, metrics = _spec(text, run.path / SPEC), run.metrics()
    name = escape(str(spec.get("name", run.path.name)))
    parts = [
        ("Results", _results(run, spec)),
        ("Benchmarks while training", _evals(metrics, run.records(EVALS))),
        ("Stages", _stages(metrics, spec)),
        ("Curves", _curves(metrics, run.records(VALIDATION))),
        ("Data left out", _left_out(run.records(LEFT_OUT))),
        ("Answers while training", _answers(run.records(VALIDATION))),
        ("Answers after training", _picture(run.path / "samples.png")),
        ("Spec", f"<pre>{escape(text)}</pre>"),
        ("Versions", _versions(run.path)),
    ]
    body = "\n".join(f"<h2>{title}</h2>\n{html}" for title, html in parts if html)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        f'<h1>{name}</h1>\n<p class="state">{escape(_state(run, metrics, spec))}</p>\n{body}\n</body></html>\n'
    )


class _Stage(Record):
    name: str
    trains: list[str]


class _Train(Record):
    stages: list[_Stage]


class _Spec(Record):
    train: _Train


def _spec(text: str, file: Path) -> dict[str, Any]:
    """The spec of a run; `UserError` for a file that is none."""
    spec = parse(text, str(file)).data
    try:
        _Spec.model_validate(spec)
    except ValidationError:
        raise UserError(
            f"{file}: damaged: not the spec of a run; rerun the run's command, or restore it"
        ) from None
    return spec


def _state(run: RunDir, metrics: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> str:
    if (run.path / MODEL).exists():
        return f"finished: {len(spec['train']['stages'])} stages, {len(metrics)} steps"
    if not metrics:
        return "no step is done yet"
    return f"not finished: stage {metrics[-1]['name']}, step {metrics[-1]['step']}"


def _table(head: Row, rows: Iterable[Row], text: Sequence[int] = ()) -> str:
    """Cells are HTML already; columns in `text` are aligned left."""
    mark = dict.fromkeys(text, ' class="text"')
    lines = ["".join(f"<th{mark.get(i, '')}>{cell}</th>" for i, cell in enumerate(head))]
    lines += ["".join(f"<td{mark.get(i, '')}>{cell}</td>" for i, cell in enumerate(row)) for row in rows]
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _results(run: RunDir, spec: Mapping[str, Any]) -> str:
    """The table of a run that is finished."""
    found = results.of(run, [stage["name"] for stage in spec["train"]["stages"]]) if run.finished() else []
    if not found:
        return ""
    head, *rows = ([escape(cell) for cell in row] for row in results.texts(found))
    about = [results.title(found), *results.notes(found)]
    return _table(head, rows) + "".join(f"<p>{escape(line[0].upper() + line[1:])}.</p>" for line in about)


def _stages(metrics: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> str:
    rows, before = [], 0
    for number, stage in enumerate(spec["train"]["stages"]):
        own = [m for m in metrics if m["stage"] == number]
        if not own:
            continue
        losses = [m["loss"] for m in own if m["loss"] is not None]
        tail = losses[-max(1, len(losses) // 20) :]
        skipped, before = own[-1]["skipped"] - before, own[-1]["skipped"]
        rows.append(
            [escape(stage["name"]), escape(", ".join(stage["trains"])), str(own[-1]["step"]),
             f"{losses[0]:.3f}" if losses else "–", f"{sum(tail) / len(tail):.3f}" if tail else "–",
             *_speed(own), str(skipped)]
        )  # fmt: skip
    head = ["stage", "trains", "steps", "first loss", "last loss", "samples/s", "tokens/s", "data wait",
            "peak memory", "MFU", "skipped"]  # fmt: skip
    return _table(head, rows, text=[1]) if rows else ""


def _speed(own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Medians over the steps, which the slow first ones don't move."""

    def middle(key: str) -> float | None:
        values = sorted(m[key] for m in own if m.get(key) is not None)
        return values[len(values) // 2] if values else None

    samples, tokens, wait, mfu = map(middle, ("samples_per_second", "tokens_per_second", "data_wait", "mfu"))
    memory = max((m["peak_memory"] for m in own), default=0)
    return [
        f"{samples or 0:,.1f}", amount(tokens or 0), f"{wait or 0:.1%}", size(memory),
        "–" if mfu is None else f"{mfu:.1%}",
    ]  # fmt: skip


def _curves(metrics: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    before = figures.offsets(metrics)
    stages = {m["name"]: before[m["stage"]] for m in metrics}
    losses = {"training": figures.points(metrics, "loss", before)}
    measured = {
        "validation": figures.points(validation, "loss", before),
        "validation, average": figures.points(validation, "average_loss", before),
    }
    losses |= {name: line for name, line in measured.items() if line}
    panels = [figures.curve("Loss", "nats a target token", losses, stages, log=True)]
    for title, unit, key, log in (
        ("Learning rate (largest)", "", "lr", False),
        ("Gradient norm before clipping", "", "grad_norm", True),
        ("Speed", "tokens/s", "tokens_per_second", False),
        ("Waiting for data", "share of time", "data_wait", False),
        ("Model FLOPs utilisation", "share of peak", "mfu", False),
    ):
        if line := figures.points(metrics, key, before):
            panels.append(figures.curve(title, unit, {title: line}, stages, log=log))
    return f'<div class="curves">{"".join(panels)}</div>'


def _evals(metrics: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> str:
    """Where the stages ended, and the course of each benchmark asked more than once."""
    if not records:
        return ""
    titles, rows = eval_results.table(records)
    before = figures.offsets(metrics)
    stages = {m["name"]: before[m["stage"]] for m in metrics}
    panels = []
    for name, newest in records[-1]["benchmarks"].items():
        line = [
            (before.get(m["stage"], 0) + m["step"], eval_results.value(m["benchmarks"][name]))
            for m in records
        ]
        counts = f"{newest['scored']} of {newest['expected']} questions"
        heading = f"{name}, {counts}"
        if len(line) > 1:
            panels.append(figures.curve(heading, newest["metric"], {name: line}, stages))
    note = f"<p>{escape(eval_results.NOTE)}</p>"
    cells = [list(map(escape, row)) for row in rows]
    return f'{_table(list(map(escape, titles)), cells)}{note}<div class="curves">{"".join(panels)}</div>'


def _left_out(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return ""
    counts = Counter(m["reason"] for m in records)
    firsts = {m["reason"]: m["message"] for m in reversed(records)}
    rows = [[escape(r), str(n), escape(str(firsts[r]))] for r, n in counts.most_common()]
    return _table(["reason", "rows", "the first"], rows, text=[2])


def _answers(records: Sequence[Mapping[str, Any]]) -> str:
    """The rows of the last validation, with what was said at a few validations before it."""
    if not records or not records[-1]["samples"]:
        return ""
    shown = [records[i * (len(records) - 1) // 3] for i in range(4)] if len(records) > 4 else list(records)
    head = ["", "question", *(f"{escape(m['name'])} {m['step']}" for m in shown), "truth"]
    rows = []
    for i, sample in enumerate(records[-1]["samples"]):
        said = [m["samples"][i] for m in shown]
        cells = [
            f'<span class="{"right" if normal(s["said"]) == normal(s["truth"]) else "wrong"}">'
            f"{escape(s['said']) or '(nothing)'}</span>" for s in said
        ]  # fmt: skip
        rows.append([_thumbnail(sample), escape(sample["asked"]), *cells, escape(sample["truth"])])
    return _table(head, rows, text=range(1, len(head)))


def _thumbnail(sample: Mapping[str, Any]) -> str:
    """The first image, small; a word if its file is no longer there."""
    if not sample["images"]:
        return ""
    if "thumbnail" in sample:
        return _embedded(base64.b64decode(sample["thumbnail"]), "")
    try:
        return _embedded(thumbnail(sample["images"][0]), "")
    except UserError:
        return "(gone)"


def _embedded(png: bytes, kind: str) -> str:
    return f'<img class="{kind}" alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _picture(path: Path) -> str:
    return _embedded(read_bytes(path), "grid") if path.exists() else ""


def _versions(path: Path) -> str:
    file = path / ENVIRONMENT
    if not file.exists():
        return ""
    try:
        facts = json_object(read_text(file), file)
    except UserError as error:
        return f"<p>{escape(printable(error))}</p>"
    return _table(["", ""], [[escape(k), escape(str(v))] for k, v in facts.items()], text=[1])
