"""Results as one self-contained HTML page: the table, each figure's conditions, answers with their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_bench.report.baselines import Baseline, verdict
from vlm_bench.report.collect import Entry, Results
from vlm_bench.report.leaderboard import (
    about,
    baseline_rows,
    columns,
    legend,
    model_row,
    origins,
    published_rows,
)
from vlm_bench.report.published.paper_table import PAPER
from vlm_bench.report.report import figure, plain
from vlm_bench.report.thumbnails import checked
from vlm_core.benchmark import Points
from vlm_core.markup.html import render

LONG = 12
"""Tables with more rows than this are collapsed."""
Values = dict[str, Any]
"""Values of the template `results.html`; all are text."""


def to_html(models: Sequence[Results]) -> str:
    """The page as text."""
    titles = columns(models)
    values = {
        "names": ", ".join(model.name for model in models),
        "titles": [*titles.values()],
        "models": [
            {
                "name": m.name,
                "cells": _model_cells(models, m, [*titles]),
                "baselines": baseline_rows(m, [*titles]),
            }
            for m in models
        ],
        "published": published_rows([*titles]),
        "paper": PAPER,
        "notes": [*legend(models), *origins()],
        "sections": [_section(models, m, entry, titles) for m in models for entry in m.entries],
        "long": LONG,
    }
    return render("vlm_bench", "results.html", values)


def _model_cells(models: Sequence[Results], model: Results, names: Sequence[str]) -> list[Values]:
    cells = []
    for name, text in zip(names, model_row(model, names), strict=True):
        first = next(iter(model.of(name)), None)
        anchor = _anchor(models, model, first) if first else ""
        cells.append({"text": text, "anchor": anchor, "scored": bool(first and first.scored)})
    return cells


def _anchor(models: Sequence[Results], model: Results, entry: Entry) -> str:
    return f"model-{models.index(model)}-result-{model.entries.index(entry)}"


def _section(models: Sequence[Results], model: Results, entry: Entry, titles: Mapping[str, str]) -> Values:
    known = {
        "anchor": _anchor(models, model, entry),
        "title": titles[entry.benchmark],
        "model": model.name,
        "conditions": about(entry)[1:],
    }
    if not entry.scored:
        return known | {"unscored": entry.text}
    data = entry.data
    names = list(dict.fromkeys(column for row in data["rows"].values() for column in row))
    return known | {
        "unscored": "",
        "protocol": data["protocol"],
        "metric": data["metric"],
        "value": f"{entry.value:.2f}",
        "interval": _interval(data),
        "baselines": list(map(_baseline, entry.baselines.values())),
        "verdict": verdict([*entry.baselines.values()]),
        "badges": _badges(entry),
        "bars": _bars(model, entry),
        "columns": names,
        "rows": {name: _cells(row, names, data["points"]) for name, row in data["rows"].items()},
        "how": _how(data),
        "counts": _counts(data),
        "warnings": len(data["warnings"]),
        "sides": _sides(data["examples"]),
    }


def _interval(data: Mapping[str, Any]) -> str:
    scale = 1 if data["unit"] == "points" else 100
    return " – ".join(f"{scale * bound:.2f}" for bound in data.get("interval", ()))


def _baseline(baseline: Baseline) -> Values:
    """A row of the table of baselines."""
    known = {"name": baseline.name, "how": baseline.how}
    if (d := baseline.difference) is None:
        return known | {"score": "–", "difference": "", "p": ""}
    scale = 1 if d.points else 100
    bounds = f"[{scale * d.low:+.2f}, {scale * d.high:+.2f}]"
    return known | {
        "score": f"{scale * d.first:.2f}",
        "difference": f"{scale * d.value:+.2f} {bounds}",
        "p": "" if d.p is None else f"{d.p:.2g}",
    }


def _badges(entry: Entry) -> list[str]:
    other = not entry.comparable and bool(entry.data["published"])
    return ["partial"] * entry.partial + ["not comparable with the paper's column"] * other


def _how(data: Mapping[str, Any]) -> str:
    """Variant and settings on one line, without hashes and versions."""
    settings = {**data["notes"], **data["settings"]}
    shown = {
        name: plain(v) for name, v in settings.items() if not isinstance(v, Mapping) or name == "decoding"
    }
    return " · ".join(f"{k}: {v}" for k, v in shown.items() if "sha256" not in k and k != "benchmark")


def _counts(data: Mapping[str, Any]) -> str:
    counts = f"scored {data['scored']} of {data['expected']}, missing {data['missing']}"
    doubts = [f"{what}: {count}" for what, count in data["parse"].items() if count] or [
        "every answer could be read"
    ] * bool(data["parse"])
    return " · ".join([counts, *doubts])


def _bars(model: Results, entry: Entry) -> list[Values]:
    known = {model.name: entry.value, **_baseline_scores(entry), **entry.data["published"]}
    longest = max(2000 if entry.data["unit"] == "points" else 100, *known.values())
    return [
        {"name": name, "share": f"{100 * value / longest:.1f}", "value": f"{value:.1f}"}
        for name, value in known.items()
    ]


def _baseline_scores(entry: Entry) -> dict[str, float]:
    differences = {name: baseline.difference for name, baseline in entry.baselines.items()}
    return {name: d.first * (1 if d.points else 100) for name, d in differences.items() if d is not None}


def _cells(row: Mapping[str, float | int], names: Sequence[str], points: Sequence[str]) -> list[str]:
    return [
        "" if name not in row else figure(Points(row[name]) if name in points else row[name])
        for name in names
    ]


def _sides(examples: Sequence[Mapping[str, Any]]) -> list[Values]:
    sides = {
        "Right": [e for e in examples if e["credit"] >= 0.5],
        "Wrong": [e for e in examples if e["credit"] < 0.5],
    }
    return [
        {"title": title, "style": title.lower(), "cards": list(map(_card, shown))}
        for title, shown in sides.items()
        if shown
    ]


def _card(example: Mapping[str, Any]) -> Values:
    source, fault = checked(example)
    read = example["read"]
    return {
        "id": example["id"],
        "source": source,
        "fault": fault,
        "prompt": example["prompt"],
        "answer": example["answer"],
        "credit": f"worth {example['credit']:.2f}" if 0 < example["credit"] < 1 else "",
        "read": "" if read.lower() in ("", example["answer"].lower()) else read,
        "right": example["right"],
    }
