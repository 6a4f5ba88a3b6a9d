"""A sweep's table in the form of a paper's ablation: a row a variant, a column a metric, mean ± spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vlm_train.grid import Grid
from vlm_train.held_out import ALONE, SHUFFLED
from vlm_train.results import column_names
from vlm_train.rundir import RunDir
from vlm_train.sweep import Job

LEGEND = (
    "Held-out accuracy in percent, mean ± sample standard deviation (n − 1 in the denominator) over n runs that "
    "differ in their seed alone. *images shuffled*: all questions, asked about other pictures; *question alone*: "
    "the answer most frequent in training for that question."
)


@dataclass(frozen=True)
class Cell:
    """One metric of one variant, by seed."""

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        return fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class Line:
    """One variant: parameters by part, and its cells by column."""

    name: str
    parameters: Mapping[str, int]
    seeds: Sequence[int]
    cells: Mapping[str, Cell]


def lines(jobs: Sequence[Job], parameters: Mapping[str, Mapping[str, int]]) -> list[Line]:
    """What the finished runs say; `parameters` by the row's name and part."""
    rows = dict.fromkeys(job.row.name for job in jobs)
    return [_line(name, [j for j in jobs if j.row.name == name], parameters[name]) for name in rows]


def _line(name: str, jobs: Sequence[Job], parameters: Mapping[str, int]) -> Line:
    found = {job.seed: _metrics(job) for job in jobs if job.done}
    names = dict.fromkeys(column for metrics in found.values() for column in metrics)
    cells = {c: Cell({seed: m[c] for seed, m in found.items() if c in m}) for c in names}
    return Line(name, parameters, list(found), cells)


def _metrics(job: Job) -> dict[str, float]:
    """All accuracies after the last stage, and the two baselines over all questions."""
    final = f"after {job.last_stage}"
    evaluations = {name: job.folder.evaluation(name) for name in (final, SHUFFLED, ALONE)}
    accuracies = {name: found["accuracy"] for name, found in evaluations.items() if found}
    baselines = {name: accuracies[name]["all"] for name in (SHUFFLED, ALONE)}
    return {**accuracies[final], **baselines}


def columns(found: Sequence[Line]) -> list[str]:
    """`all`, every category, then the baselines."""
    names = {name for line in found for name in line.cells}
    own = column_names(names - {SHUFFLED, ALONE})
    return [*own, *(name for name in (SHUFFLED, ALONE) if name in names)]


def texts(found: Sequence[Line]) -> list[list[str]]:
    """The table as rows of text, the head first."""
    names = columns(found)
    head = ["", "connector", "n", *names]
    rows = [
        [line.name, f"{line.parameters['connector']:,}", str(len(line.seeds)),
         *(str(line.cells[name]) if name in line.cells else "–" for name in names)]
        for line in found
    ]  # fmt: skip
    return [head, *rows]


def markdown(found: Sequence[Line]) -> str:
    """The table and what its numbers are; `connector` is the number of its parameters."""
    head, *rows = texts(found)
    rule = "|---|" + "---:|" * (len(head) - 1)
    table = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([table[0], rule, *table[1:], "", f"{LEGEND} *connector*: its parameters."]) + "\n"


def record(grid: Grid, found: Sequence[Line], failures: Sequence[str]) -> dict[str, Any]:
    """The same as plain data, each seed's value included."""
    return {
        "base": str(grid.base),
        "seeds": grid.seeds,
        "metric": "held-out accuracy, %",
        "spread": "sample standard deviation over the seeds",
        "failed": list(failures),
        "rows": [
            {
                "name": line.name,
                "parameters": dict(line.parameters),
                "n": len(line.seeds),
                "columns": {
                    name: {"mean": cell.mean, "spread": cell.spread, "values": dict(cell.values)}
                    for name, cell in line.cells.items()
                },
            }
            for line in found
        ],
    }


def write(grid: Grid, found: Sequence[Line], failures: Sequence[str]) -> list[Path]:
    """`table.md`, `table.json` and, if anything was measured, `table.png` in the sweep's folder."""
    folder = RunDir(grid.output)
    paths = [
        folder.write("table.md", markdown(found)),
        folder.write("table.json", json.dumps(record(grid, found, failures), indent=1) + "\n"),
    ]
    if any(line.cells for line in found):
        paths.append(plot(found, grid.output / "table.png"))
    return paths


def plot(found: Sequence[Line], path: Path) -> Path:
    """A group of bars a column: means, whiskers of one spread, a dot each run; what words alone give as a line."""
    from matplotlib.figure import Figure

    names = [name for name in columns(found) if name != ALONE]
    figure = Figure(figsize=(1.7 * len(names) + 2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(found)
    for i, line in enumerate(found):
        for x, name in enumerate(names):
            if name not in line.cells:
                continue
            cell, at = line.cells[name], x + (i - (len(found) - 1) / 2) * width
            label = line.name if x == 0 else None
            axes.bar(
                at, cell.mean, 0.9 * width, yerr=cell.spread, capsize=2, color=f"C{i}", alpha=0.6, label=label
            )
            axes.plot([at] * len(cell.values), list(cell.values.values()), ".", color="black", markersize=3)
    alone = [line.cells[ALONE].mean for line in found if ALONE in line.cells]
    if alone:
        axes.axhline(max(alone), color="black", linestyle=":", linewidth=1, label=ALONE)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="held-out accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(found) + 1, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    return path
