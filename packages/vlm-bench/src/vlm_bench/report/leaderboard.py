"""The paper's table with other models' results: one row per model, the paper's eight columns, published rows below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_bench.report.collect import Entry, Results
from vlm_bench.report.published.paper_table import ROWS, TITLES
from vlm_bench.report.published.peers import PEERS, sources
from vlm_bench.report.report import conditions
from vlm_bench.report.saved_reports import SCHEMA
from vlm_core.evaluation.baselines import CHANCE, MODEL_BASELINES
from vlm_core.markup.markdown import table, text
from vlm_core.markup.printable import json_text

NOTHING = "–"
PUBLISHED = "Published figures: Table 1 of VL-Mamba (arXiv 2403.13600)"
LEGEND = {
    "*": "partial: not every expected answer is in it",
    "≠": "another protocol, split or revision than the column of the paper: not comparable with it",
    "†": "not above one of its baselines: the 95 % interval of the difference is not above 0",
}


def columns(models: Sequence[Results]) -> dict[str, str]:
    """Titles by benchmark: the paper's eight, then other scored benchmarks."""
    others = sorted({e.benchmark for model in models for e in model.entries} - TITLES.keys())
    return TITLES | {name: name for name in others}


def model_row(model: Results, names: Sequence[str]) -> list[str]:
    """A model's cells; several variants of a benchmark share one."""
    return [" / ".join(entry.text for entry in model.of(name)) or NOTHING for name in names]


def baseline_rows(model: Results, names: Sequence[str]) -> dict[str, list[str]]:
    """Rows below a model's: half the width of the 95 % interval, and each baseline that a report has."""
    rows = {"± 95 %": [_joined([_half_width(e) for e in model.of(name)]) for name in names]}
    for baseline in (CHANCE, *MODEL_BASELINES):
        rows[baseline] = [_joined([_score(e, baseline) for e in model.of(name)]) for name in names]
    return {title: cells for title, cells in rows.items() if set(cells) != {NOTHING}}


def _half_width(entry: Entry) -> str:
    return NOTHING if entry.half_width is None else f"{entry.half_width:.1f}"


def _score(entry: Entry, name: str) -> str:
    baseline = entry.baselines.get(name)
    if baseline is None or (difference := baseline.difference) is None:
        return NOTHING
    return f"{difference.first * (1 if difference.points else 100):.1f}"


def _joined(cells: Sequence[str]) -> str:
    return NOTHING if set(cells) <= {NOTHING} else " / ".join(cells)


def published_rows(names: Sequence[str]) -> dict[str, list[str]]:
    """Published cells by model: the rows of the paper's table, then those of other state-space models."""
    paper = {model: dict(zip(TITLES, row, strict=True)) for model, row in ROWS.items()}
    rows = {model: [_cell(row.get(name)) for name in names] for model, row in paper.items()}
    for model, peer in PEERS.items():
        rows[model] = [_cell(peer.figures.get(name)) + "≠" * (name in peer.differs) for name in names]
    return rows


def _cell(value: float | None) -> str:
    """A published figure with the decimals that its source has."""
    return NOTHING if value is None else str(value)


def origins() -> list[str]:
    """Where the published rows come from."""
    return [f"{PUBLISHED}, and below it:", *sources()]


def legend(models: Sequence[Results]) -> list[str]:
    """The explanation of the marks in the table."""
    cells = [entry.text for model in models for entry in model.entries if entry.scored]
    cells += [cell for row in published_rows([*TITLES]).values() for cell in row]
    return [f"{mark} {text}" for mark, text in LEGEND.items() if mark in "".join(cells)]


def about(entry: Entry) -> list[str]:
    """The conditions of one figure, line by line."""
    data = entry.data
    if entry.scored:
        return [f"protocol: {data['protocol']}", *conditions(data)]
    settings = {k: v for k, v in data.items() if k not in ("benchmark", "scored_by")}
    return [entry.text, *conditions({"settings": settings})]


def to_markdown(models: Sequence[Results]) -> str:
    """Table, marks, and the conditions of each figure."""
    titles = columns(models)
    head = table([["", *titles.values()]], right=1)
    rows = []
    for model in models:
        rows.append(_line(f"**{text(model.name)}**", model_row(model, [*titles])))
        rows += [_line(f"*{name}*", cells) for name, cells in baseline_rows(model, [*titles]).items()]
    rows += [_line(name, cells) for name, cells in published_rows([*titles]).items()]
    notes = [*origins(), *legend(models)]
    lines = [*head, *rows, "", *(f"- {text(note)}" for note in notes)]
    for model in models:
        for entry in model.entries:
            title = f"{model.name}: {titles[entry.benchmark]}"
            lines += ["", f"### {text(title)}", "", *(f"- {text(line)}" for line in about(entry))]
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Sequence[str]) -> str:
    """A table row; `cells` are Markdown already."""
    return f"| {name} | {' | '.join(cells)} |"


def to_json(models: Sequence[Results]) -> str:
    """All reports as JSON, without the fields that only `diff` and the page need."""
    return json_text(
        {
            "schema": SCHEMA,
            "columns": columns(models),
            "models": [
                {
                    "name": m.name,
                    "folder": str(m.folder),
                    "results": [_plain(e) for e in m.entries],
                    "passed over": list(m.skipped),
                }
                for m in models
            ],
            "published": {model: dict(zip(TITLES, row, strict=True)) for model, row in ROWS.items()},
            "peers": {model: peer._asdict() for model, peer in PEERS.items()},
        },
        2,
    )


def _plain(entry: Entry) -> dict[str, Any]:
    fields = {
        k: v
        for k, v in entry.data.items()
        if k not in ("units", "content", "examples", "combine", "published")
    }
    return {"file": str(entry.file), "cell": entry.text, "comparable": entry.comparable, **fields}


def show(models: Sequence[Results]) -> None:
    """Print the table and the conditions of each figure."""
    from rich.console import Console
    from rich.table import Table

    from vlm_core.cli.output import inert

    titles = columns(models)
    shown = Table("", box=None, padding=(0, 0, 0, 2), pad_edge=False)
    for title in titles.values():
        shown.add_column(inert(title), justify="right", min_width=6)
    for column in shown.columns:
        column.no_wrap = True  # a truncated figure is wrong: a narrow terminal wraps the line
    for model in models:
        shown.add_row(inert(model.name), *model_row(model, [*titles]), style="bold")
        for name, cells in baseline_rows(model, [*titles]).items():
            shown.add_row(f"  {name}", *cells)
    shown.add_row()
    for name, cells in published_rows([*titles]).items():
        shown.add_row(name, *cells)
    console = Console(soft_wrap=True, highlight=False)
    shown.width = console.measure(shown, options=console.options.update(max_width=1000)).maximum
    console.print(shown)
    for line in [*origins(), *legend(models)]:
        console.print(inert(line))
    for model in models:
        for entry in model.entries:
            console.print()
            console.print(inert(f"{model.name}: {titles[entry.benchmark]}", "bold"))
            for line in about(entry):
                console.print(inert(line))
