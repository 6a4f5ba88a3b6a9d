"""The end of a run on the terminal: the table, and where everything is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlm_core.spec import Spec
from vlm_train import eval_results
from vlm_train.grid import Grid
from vlm_train.results import Results, columns
from vlm_train.rundir import EVALS, MODEL, RESULTS, RunDir
from vlm_train.sweep import Job
from vlm_train.table import Line, texts


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def _table(title: str | None, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for i, name in enumerate(head):
        table.add_column(escape(name), justify="right" if i else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def show_plan(grid: Grid, jobs: Sequence[Job], parameters: Mapping[str, Mapping[str, int]]) -> None:
    """Print every row with the parameters of its parts, and the state of its runs."""
    rows = []
    for row in grid.rows:
        states = [f"{job.seed} {job.state}" for job in jobs if job.row is row]
        counts = [f"{count:,}" for count in parameters[row.name].values()]
        rows.append([row.name, *counts, f"{sum(parameters[row.name].values()):,}", ", ".join(states)])
    head = ["", *parameters[grid.rows[0].name], "parameters", "seeds"]
    _console().print(_table(f"{grid.file}: {len(jobs)} runs of {grid.base}", head, rows))


def show_table(grid: Grid, lines: Sequence[Line], files: Sequence[Path]) -> None:
    """Print what came of a sweep, and where it is."""
    head, *rows = texts(lines)
    console = _console()
    console.print(_table(f"{grid.file}: held-out accuracy, %, mean ± sample standard deviation", head, rows))
    console.print("\n" + ", ".join(map(str, files)))


def show(spec: Spec, folder: RunDir, results: Results) -> None:
    """Print accuracies in percent, what benchmarks gave while training, then the files of the run."""
    console = _console()
    if results:
        names = columns(results)
        rows = [
            [
                name,
                str(r["questions"]),
                *(f"{r['accuracy'][c]:.1f}" if c in r["accuracy"] else "–" for c in names),
            ]
            for name, r in results
        ]
        console.print(_table(f"{spec.name}: held-out accuracy, %", ["", "questions", *names], rows))
        console.print(f"\ntable {folder.path}/{RESULTS}, pictures {folder.path}/samples.png")
    if records := folder.records(EVALS):
        console.print(f"\n{eval_results.NOTE}")
        console.print(_table(None, *eval_results.table(records)))
    console.print(f"loss curves {folder.path}/curves.png, model {folder.path}/{MODEL}")
