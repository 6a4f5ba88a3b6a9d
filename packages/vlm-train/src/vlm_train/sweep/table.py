"""A sweep's table in the form of a paper's ablation: a row a variant, a column a metric, mean ± spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    "*images shuffled*: questions about an image, asked about another one; *question alone*: the answer most frequent "
    "in training for that question."
)


@dataclass(frozen=True)
class Cell:
    """One metric of one variant, by seed; of `runs` finished runs."""

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
        """How many of a benchmark's questions are scored, if any figure lacks some."""
        if not any(figure.partial for figure in self.figures.values()):
            return ""
        scored = sorted({figure.scored for figure in self.figures.values()})
        expected = sorted({figure.expected for figure in self.figures.values()})
        few, of = ("–".join(map(str, dict.fromkeys((n[0], n[-1])))) for n in (scored, expected))
        return f"partial, {few} of {of}"

    def __str__(self) -> str:
        runs = f"{len(self.figures)} of {self.runs} runs" if len(self.figures) < self.runs else ""
        marks = ", ".join(filter(None, (self.partial, runs)))
        value = f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"
        return f"{value} ({marks})" if marks else value


@dataclass(frozen=True)
class Line:
    """One variant: parameters by part, its cells by column, what its accuracies are called, and notes on them."""

    name: str
    parameters: Mapping[str, int]
    seeds: Sequence[int]
    cells: Mapping[Column, Cell]
    accuracy: Sequence[str] = ()
    notes: Sequence[str] = field(default=())


def lines(jobs: Sequence[Job], parameters: Mapping[str, Mapping[str, int]]) -> list[Line]:
    """What the finished runs say; `parameters` by the row's name and part."""
    rows = dict.fromkeys(job.row.name for job in jobs)
    return [_line(name, [j for j in jobs if j.row.name == name], parameters[name]) for name in rows]


def _line(name: str, jobs: Sequence[Job], parameters: Mapping[str, int]) -> Line:
    found = {job.seed: measures(job.folder, job.last_stage) for job in jobs if job.done}
    names = dict.fromkeys(column for m in found.values() for column in m.figures)
    cells = {
        c: Cell({seed: m.figures[c] for seed, m in found.items() if c in m.figures}, len(found))
        for c in names
    }
    accuracy = _distinct(m.accuracy for m in found.values() if m.accuracy)
    notes = _distinct(note for m in found.values() for note in m.notes)
    return Line(name, parameters, list(found), cells, accuracy, notes)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def columns(found: Sequence[Line]) -> dict[Column, str]:
    """Every column and its title: `all`, every category, the controls, then benchmarks; no two titles are equal."""
    names = sorted({name for line in found for name in line.cells}, key=lambda column: column.order)
    titles = [column.title for column in names]
    return {
        column: column.title
        if titles.count(column.title) == 1
        else f"{column.title} ({column.protocol or column.kind})"
        for column in names
    }


def texts(found: Sequence[Line]) -> list[list[str]]:
    """The table as rows of text, the head first."""
    names = columns(found)
    head = ["", "connector", "n", *names.values()]
    rows = [
        [line.name, f"{line.parameters['connector']:,}", str(len(line.seeds)),
         *(str(line.cells[name]) if name in line.cells else NOTHING for name in names)]
        for line in found
    ]  # fmt: skip
    return [head, *rows]


def metric(found: Sequence[Line]) -> str:
    """The title of the table: accuracies, held-out only if those of all runs are, and benchmarks."""
    accuracy = _distinct(name for line in found for name in line.accuracy)
    one = accuracy[0] if len(accuracy) == 1 else "accuracy, %" if accuracy else ""
    benchmarks = any(column.kind == "benchmark" for column in columns(found))
    return "; ".join(filter(None, (one, "benchmarks" if benchmarks else ""))) or "no figures"


def notes(found: Sequence[Line]) -> list[str]:
    """Notes of the table: rows that are trained on or left out, and missing figures."""
    every = _distinct(note for line in found for note in line.notes)
    measured = [line for line in found if line.seeds]
    told = []
    for note in every:
        those = [line.name for line in measured if note in line.notes]
        told.append(note if len(those) == len(measured) else f"{', '.join(those)}: {note}")
    names = columns(found)
    for line in measured:
        absent = [title for column, title in names.items() if column not in line.cells]
        told += [f"{line.name}: not measured: {', '.join(absent)}"] if absent else []
    if any(one.partial for line in found for one in line.cells.values()):
        told.append(benchmark_table.NOTE)
    return told


def markdown(found: Sequence[Line]) -> str:
    """The table and what its numbers are; `connector` is the number of its parameters."""
    head, *rows = map(row, texts(found))
    rule = "|---|" + "---:|" * (len(texts(found)[0]) - 1)
    accuracy = metric(found)
    legend = [f"{text(accuracy[0].upper() + accuracy[1:])}. {LEGEND}"]
    if any(column.kind == "control" for column in columns(found)):
        legend.append(CONTROLS)
    about = [*legend, *map(text, notes(found))]
    return "\n".join([head, rule, *rows, "", *(f"- {line}" for line in about)]) + "\n"


def record(grid: Grid, found: Sequence[Line], failures: Sequence[str]) -> dict[str, Any]:
    """The same as plain data, each seed's value included."""
    names = columns(found)
    return {
        "base": str(grid.base),
        "seeds": grid.seeds,
        "metric": metric(found),
        "spread": "sample standard deviation over the seeds",
        "failed": list(failures),
        "notes": notes(found),
        "columns": {
            title: {"kind": c.kind, "name": c.name, "unit": c.unit, "protocol": c.protocol}
            for c, title in names.items()
        },
        "rows": [
            {
                "name": line.name,
                "parameters": dict(line.parameters),
                "n": len(line.seeds),
                "columns": {
                    title: _plain(column, line.cells[column])
                    for column, title in names.items()
                    if column in line.cells
                },
            }
            for line in found
        ],
    }


def _plain(column: Column, cell: Cell) -> dict[str, Any]:
    told = {"mean": cell.mean, "spread": cell.spread, "values": cell.values}
    if column.kind != "benchmark":
        return told
    counts = {
        seed: {"scored": f.scored, "expected": f.expected, "partial": f.partial}
        for seed, f in cell.figures.items()
    }
    return {**told, "questions": counts}


def write(grid: Grid, found: Sequence[Line], failures: Sequence[str]) -> list[Path]:
    """`table.md`, `table.json` and, if anything was measured, `table.png` in the sweep's folder."""
    folder = RunDir(grid.output)
    paths = [
        folder.write("table.md", markdown(found)),
        folder.write("table.json", json.dumps(record(grid, found, failures), indent=1) + "\n"),
    ]
    if any(line.cells for line in found):
        paths.append(
            plot(columns(found), {line.name: line.cells for line in found}, grid.output / "table.png")
        )
    return paths
