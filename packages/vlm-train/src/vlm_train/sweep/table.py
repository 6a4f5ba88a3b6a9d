"""The table of a sweep, as of an ablation: a row per variant, a column per metric, mean ± spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vlm_core.markup.markdown import row, text
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.report import benchmark_table
from vlm_train.report.results import NOTHING
from vlm_train.sweep.grid import Grid
from vlm_train.sweep.jobs import Job
from vlm_train.sweep.metrics import Column, Figure, measures
from vlm_train.sweep.plot import plot

SPREAD = "mean ± sample standard deviation"
LEGEND = (
    f"Each figure: {SPREAD} (n − 1 in the denominator) over n runs that differ in their seed alone. "
    "*connector*: its parameters."
)
CONTROLS = (
    "*images shuffled*: questions about an image, asked about another one; *images reordered*: about the row's own in "
    "another order; *majority answer*: the answer most frequent in training for that question."
)


@dataclass(frozen=True)
class Cell:
    """One metric of one variant: figures by seed, and the number of finished runs."""

    figures: Mapping[int, Figure]
    runs: int

    @property
    def values(self) -> dict[int, float]:
        return {seed: figure.value for seed, figure in self.figures.items()}

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def partial(self) -> str:
        """`partial, n of m` if a figure does not score all questions of its benchmark, else empty."""
        if not any(figure.partial for figure in self.figures.values()):
            return ""
        scored = sorted({figure.scored for figure in self.figures.values()})
        expected = sorted({figure.expected for figure in self.figures.values()})
        numerator, denominator = (
            "–".join(map(str, dict.fromkeys((n[0], n[-1])))) for n in (scored, expected)
        )
        return f"partial, {numerator} of {denominator}"

    def __str__(self) -> str:
        runs = f"{len(self.figures)} of {self.runs} runs" if len(self.figures) < self.runs else ""
        marks = ", ".join(filter(None, (self.partial, runs)))
        value = f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"
        return f"{value} ({marks})" if marks else value


@dataclass(frozen=True)
class Line:
    """One variant: parameters by part, seeds of finished runs, cells by column, names of its accuracies, notes."""

    name: str
    parameters: Mapping[str, int]
    seeds: Sequence[int]
    cells: Mapping[Column, Cell]
    accuracy: Sequence[str] = ()
    notes: Sequence[str] = field(default=())


def lines(jobs: Sequence[Job], parameters: Mapping[str, Mapping[str, int]]) -> list[Line]:
    """A line for each variant, from its finished runs; `parameters` are by row and part."""
    rows = dict.fromkeys(job.row.name for job in jobs)
    return [_line(name, [j for j in jobs if j.row.name == name], parameters[name]) for name in rows]


def _line(name: str, jobs: Sequence[Job], parameters: Mapping[str, int]) -> Line:
    runs = {job.seed: measures(job.folder, job.last_stage) for job in jobs if job.done}
    names = dict.fromkeys(column for m in runs.values() for column in m.figures)
    cells = {
        c: Cell({seed: m.figures[c] for seed, m in runs.items() if c in m.figures}, len(runs)) for c in names
    }
    accuracy = _distinct(m.accuracy for m in runs.values() if m.accuracy)
    notes = _distinct(note for m in runs.values() for note in m.notes)
    return Line(name, parameters, list(runs), cells, accuracy, notes)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def columns(table_lines: Sequence[Line]) -> dict[Column, str]:
    """Titles by column, in order: `all`, the categories, the controls, the benchmarks. No two titles are equal."""
    names = sorted({name for line in table_lines for name in line.cells}, key=lambda column: column.order)
    titles = [column.title for column in names]
    return {
        column: column.title
        if titles.count(column.title) == 1
        else f"{column.title} ({column.protocol or column.kind})"
        for column in names
    }


def by_table(grid: Grid, table_lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each table of the sweep by title, named as its rows; without `tables`, all lines of one table."""
    if not grid.tables:
        return {"": list(table_lines)}
    runs = {line.name: line for line in table_lines}
    return {
        title: [replace(runs[row.name], name=name) for name, row in rows.items()]
        for title, rows in grid.tables.items()
    }


def texts(table_lines: Sequence[Line]) -> list[list[str]]:
    """The table as rows of text, the head first."""
    names = columns(table_lines)
    head = ["", "connector", "n", *names.values()]
    rows = [
        [
            line.name,
            f"{line.parameters['connector']:,}",
            str(len(line.seeds)),
            *(str(line.cells[name]) if name in line.cells else NOTHING for name in names),
        ]
        for line in table_lines
    ]
    return [head, *rows]


def metric(table_lines: Sequence[Line]) -> str:
    """The title of the table; accuracies are called held-out only if they are for all runs."""
    accuracy = _distinct(name for line in table_lines for name in line.accuracy)
    one = accuracy[0] if len(accuracy) == 1 else "accuracy, %" if accuracy else ""
    benchmarks = any(column.kind == "benchmark" for column in columns(table_lines))
    return "; ".join(filter(None, (one, "benchmarks" if benchmarks else ""))) or "no figures"


def notes(table_lines: Sequence[Line]) -> list[str]:
    """Notes of the table: questions that are also in the training data or left out, and missing figures."""
    every = _distinct(note for line in table_lines for note in line.notes)
    measured = [line for line in table_lines if line.seeds]
    result = []
    for note in every:
        variants = [line.name for line in measured if note in line.notes]
        result.append(note if len(variants) == len(measured) else f"{', '.join(variants)}: {note}")
    names = columns(table_lines)
    for line in measured:
        absent = [title for column, title in names.items() if column not in line.cells]
        result += [f"{line.name}: not measured: {', '.join(absent)}"] if absent else []
    if any(one.partial for line in table_lines for one in line.cells.values()):
        result.append(benchmark_table.NOTE)
    return result


def markdown(table_lines: Sequence[Line]) -> str:
    """The table, followed by a list that explains its numbers."""
    head, *rows = map(row, texts(table_lines))
    rule = "|---|" + "---:|" * (len(texts(table_lines)[0]) - 1)
    accuracy = metric(table_lines)
    legend = [f"{text(accuracy[0].upper() + accuracy[1:])}. {LEGEND}"]
    if any(column.kind == "control" for column in columns(table_lines)):
        legend.append(CONTROLS)
    explanations = [*legend, *map(text, notes(table_lines))]
    return "\n".join([head, rule, *rows, "", *(f"- {line}" for line in explanations)]) + "\n"


def tables_markdown(grid: Grid, table_lines: Sequence[Line]) -> str:
    """`markdown` of each table of the sweep, under its title."""
    tables = by_table(grid, table_lines).items()
    return "\n".join((f"## {text(title)}\n\n" if title else "") + markdown(lines) for title, lines in tables)


def record(grid: Grid, table_lines: Sequence[Line], failures: Sequence[str]) -> dict[str, Any]:
    """The table as JSON data, with the value of every seed."""
    names = columns(table_lines)
    folders = {row.name: row.folder for row in grid.rows}
    tables = {title: {name: row.name for name, row in rows.items()} for title, rows in grid.tables.items()}
    return {
        "base": str(grid.base or ""),
        "seeds": grid.seeds,
        "metric": metric(table_lines),
        "spread": "sample standard deviation over the seeds",
        "failed": list(failures),
        "notes": notes(table_lines),
        "columns": {
            title: {"kind": c.kind, "name": c.name, "unit": c.unit, "protocol": c.protocol}
            for c, title in names.items()
        },
        "tables": tables,
        "rows": [
            {
                "name": line.name,
                "folder": folders.get(line.name, ""),
                "parameters": dict(line.parameters),
                "n": len(line.seeds),
                "columns": {
                    title: _plain(column, line.cells[column])
                    for column, title in names.items()
                    if column in line.cells
                },
            }
            for line in table_lines
        ],
    }


def _plain(column: Column, cell: Cell) -> dict[str, Any]:
    values = {"mean": cell.mean, "spread": cell.spread, "values": cell.values}
    if column.kind != "benchmark":
        return values
    counts = {
        seed: {"scored": f.scored, "expected": f.expected, "partial": f.partial}
        for seed, f in cell.figures.items()
    }
    return {**values, "questions": counts}


def write(
    grid: Grid, table_lines: Sequence[Line], failures: Sequence[str], *, draw: bool = True
) -> list[Path]:
    """Write `table.md`, `table.json` and, with `draw` and figures, `table.png` into the sweep's folder; -> paths."""
    folder = RunDir(grid.output)
    paths = [
        folder.write("table.md", tables_markdown(grid, table_lines)),
        folder.write("table.json", json.dumps(record(grid, table_lines, failures), indent=1) + "\n"),
    ]
    if draw and any(line.cells for line in table_lines):
        paths.append(
            plot(
                columns(table_lines),
                {line.name: line.cells for line in table_lines},
                grid.output / "table.png",
            )
        )
    return paths
