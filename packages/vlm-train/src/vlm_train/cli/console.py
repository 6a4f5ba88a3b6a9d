"""Tables of results on the terminal, after a run and around a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_core.cli.output import inert
from vlm_core.plugins.local_code import how_to_load
from vlm_core.spec.spec import Spec
from vlm_train.checkpoint.run_dir import EVALS, MODEL, RESULTS, RunDir
from vlm_train.report import benchmark_table, results
from vlm_train.report.results import Results
from vlm_train.sweep.grid import Grid
from vlm_train.sweep.jobs import Job
from vlm_train.sweep.table import SPREAD, Line, by_table, metric, notes, texts


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _print(console: Console, title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table under its title. No cell is truncated: a narrow terminal wraps the lines."""
    table = Table(box=None)
    for i, name in enumerate(head):
        table.add_column(_cell(name), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    table.width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.print(inert(title))
    console.print(table)


def _cell(text: str) -> Text:
    return inert(" ".join(text.split()))


def show_plan(grid: Grid, jobs: Sequence[Job], parameters: Mapping[str, Mapping[str, int]]) -> None:
    """Print every row of a sweep with the parameters of each part and the state of its runs."""
    rows = []
    places = _places(grid)
    for row in grid.rows:
        states = [f"{job.seed} {job.state}" for job in jobs if job.row is row]
        counts = [f"{count:,}" for count in parameters[row.name].values()]
        place = ["; ".join(places[row.name])] if grid.tables else []
        total = f"{sum(parameters[row.name].values()):,}"
        rows.append([row.name, *counts, total, ", ".join(states), *place])
    head = ["", *parameters[grid.rows[0].name], "parameters", "seeds", *(["rows"] if grid.tables else [])]
    what = f"for {len(grid.tables)} tables" if grid.tables else f"of {grid.base}"
    _print(_console(), f"{grid.file}: {len(jobs)} runs {what}", head, rows)


def _places(grid: Grid) -> dict[str, list[str]]:
    """The tables and rows of each run."""
    places: dict[str, list[str]] = {row.name: [] for row in grid.rows}
    for title, rows in grid.tables.items():
        for name, row in rows.items():
            places[row.name].append(f"{title}: {name}")
    return places


def show_tables(grid: Grid, all_lines: Sequence[Line], files: Sequence[Path]) -> None:
    """Print the results of a sweep and the paths of its files."""
    console = _console()
    for title, lines in by_table(grid, all_lines).items():
        head, *rows = texts(lines)
        _print(console, f"{title or grid.file}: {metric(lines)}, {SPREAD}", head, rows)
        for line in notes(lines):
            console.print(inert(line))
        console.print()
    console.print(inert(", ".join(map(str, files))))


def show(spec: Spec, folder: RunDir, table: Results) -> None:
    """Print accuracies in percent, benchmark scores during training, and the paths of the run's files."""
    console = _console()
    if table:
        head, *rows = results.texts(table)
        _print(console, f"{spec.name}: {results.title(table)}", head, rows)
        for line in results.notes(table):
            console.print(inert(line))
        console.print()
        console.print(inert(f"table {folder.path}/{RESULTS}, samples {folder.path}/samples.png"))
    if records := folder.records(EVALS):
        console.print()
        _print(console, benchmark_table.NOTE, *benchmark_table.table(records))
    model = folder.path / MODEL
    console.print(inert(f"loss curves {folder.path}/curves.png, model {model}{how_to_load(model)}"))
