"""The paper's Tables 2 to 5 with a sweep's results: a row of the sweep, and below it the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from vlm_bench.report.ablations.paper_figures import TABLES, PaperTable
from vlm_bench.report.ablations.sweep_file import Cell, Column, RunRow, Sweep, read_sweep
from vlm_bench.report.collect import Entry, collect
from vlm_bench.report.leaderboard import LEGEND, NOTHING
from vlm_bench.report.published.paper_table import PROTOCOLS, TITLES
from vlm_core.errors import UserError
from vlm_core.io.manifest import MANIFEST, sha256
from vlm_core.markup.markdown import table, text

UNKNOWN = "?"
REPORTS = "bench"
"""Folder of a run with results of `vlm-bench run`, for benchmarks that a server or a judge scores."""
_NOT_RUN = f"{NOTHING} no finished run has this score"
_NOT_KNOWN = f"{UNKNOWN} not in the paper's text or Table 1, which alone were at hand"


@dataclass(frozen=True)
class SweepTable:
    """One table: its title, the cells of the paper's columns by row, and notes."""

    title: str
    rows: Mapping[str, Sequence[str]]
    notes: Sequence[str]


def sweep_tables(folder: Path) -> list[SweepTable]:
    """All tables of the sweep in `folder`, finished or not; raises `UserError` as `read_sweep` does."""
    sweep = read_sweep(folder)
    cells = {row.name: _cells(folder, sweep, row) for row in sweep.rows}
    return [_table(title, rows, sweep, cells) for title, rows in sweep.tables.items()]


def _table(
    title: str, rows: Mapping[str, str], sweep: Sweep, cells: Mapping[str, Mapping[str, str]]
) -> SweepTable:
    paper = TABLES.get(title, PaperTable("", {}))
    lines: dict[str, list[str]] = {}
    for name, run in rows.items():
        finished = sweep.runs[run].n
        label = f"{name} ({finished} of {len(sweep.seeds)} runs)" if finished < len(sweep.seeds) else name
        lines[label] = [cells[run].get(benchmark, NOTHING) for benchmark in TITLES]
        if name in paper.rows:
            figures = paper.rows[name]
            lines[f"{name}, paper"] = [f"{figures[b]:.1f}" if b in figures else UNKNOWN for b in TITLES]
    notes = list(paper.notes)
    if absent := [name for name in paper.rows if name not in rows]:
        notes.append(f"rows of the paper that the sweep does not have: {', '.join(absent)}")
    return SweepTable(": ".join(filter(None, (title, paper.title))), lines, notes)


def _cells(folder: Path, sweep: Sweep, row: RunRow) -> dict[str, str]:
    """The texts of a run's benchmarks: the sweep's scores, and saved reports of benchmarks that it has not scored."""
    texts: dict[str, list[str]] = {}
    for title, cell in row.columns.items():
        if (column := sweep.columns[title]).kind == "benchmark":
            texts.setdefault(column.name, []).append(_scored(column, cell, row.n))
    reported: dict[str, dict[object, dict[int, Entry]]] = {}  # by benchmark, protocol and seed
    for seed, entry in _reports(folder / row.folder, sweep.seeds):
        if entry.benchmark not in texts:
            protocols = reported.setdefault(entry.benchmark, {})
            _add(protocols.setdefault(entry.data.get("protocol"), {}), seed, entry)
    for name, protocols in reported.items():
        texts[name] = [_reported([*entries.values()], row.n) for entries in protocols.values()]
    return {name: " / ".join(variants) for name, variants in texts.items()}


def _add(entries: dict[int, Entry], seed: int, entry: Entry) -> None:
    """Add the result of a seed; `UserError` for a second one: a mean would count this seed twice."""
    other = entries.setdefault(seed, entry)
    if other is not entry and other.scored and entry.scored:
        raise UserError(
            f"{entry.file} and {other.file} are two results of one run by one protocol; remove one of them"
        )
    entries[seed] = entry if entry.scored else other


def _scored(column: Column, cell: Cell, runs: int) -> str:
    counts = cell.questions.values()
    expected = {count.expected for count in counts}
    same = bool(expected) and all(PROTOCOLS.get(column.name) == (column.protocol, n) for n in expected)
    partial = any(count.partial for count in counts)
    text = _with_marks(cell.mean, cell.spread, partial, column.name in PROTOCOLS and not same)
    return text + _of_runs(len(cell.values), runs)


def _reported(entries: Sequence[Entry], runs: int) -> str:
    """One cell of the reports of all seeds by one protocol."""
    scored = [entry for entry in entries if entry.scored]
    if not scored:
        return entries[0].text
    values = [entry.value for entry in scored]
    other = any(entry.benchmark in PROTOCOLS and not entry.comparable for entry in scored)
    spread = stdev(values) if len(values) > 1 else None
    text = _with_marks(fmean(values), spread, any(entry.partial for entry in scored), other)
    return text + _of_runs(len(values), runs)


def _of_runs(scored: int, runs: int) -> str:
    """A mark of a figure that not all finished runs of the row have."""
    return f" ({scored} of {runs} runs)" if scored < runs else ""


def _with_marks(mean: float, spread: float | None, partial: bool, other: bool) -> str:
    value = f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"
    return f"{value}{'*' if partial else ''}{'≠' if other else ''}"


def _reports(folder: Path, seeds: Sequence[int]) -> Iterator[tuple[int, Entry]]:
    """Seed and result of what is in the folder `bench` of each seed's run; those of another model are refused."""
    for seed in seeds:
        run = folder / f"seed-{seed}"
        if not (run / REPORTS).is_dir():
            continue
        manifest = run / "model" / MANIFEST
        digest = sha256(manifest) if manifest.is_file() else None
        for entry in collect(run / REPORTS).entries:
            about = entry.data.get("settings", entry.data)
            if digest is None or about.get("model sha256") != digest:
                raise UserError(
                    f"{entry.file}: not a result of {run / 'model'}: its model sha256 is "
                    f"{about.get('model sha256')!s:.20}, the manifest's {digest!s:.20}"
                )
            yield seed, entry


def legend(tables: Sequence[SweepTable]) -> list[str]:
    """The marks that occur in the tables."""
    cells = " ".join(cell for one in tables for row in one.rows.values() for cell in row)
    marks = [f"{mark} {meaning}" for mark, meaning in LEGEND.items() if mark in cells]
    marks += [_NOT_RUN] if NOTHING in cells else []
    marks += [_NOT_KNOWN] if UNKNOWN in cells else []
    return [*marks, *(["± sample standard deviation over the seeds"] if "±" in cells else [])]


def to_markdown(tables: Sequence[SweepTable]) -> str:
    lines = []
    for one in tables:
        rows = [[name, *cells] for name, cells in one.rows.items()]
        lines += [f"## {text(one.title)}", "", *table([["", *TITLES.values()], *rows], right=1), ""]
        lines += [*(f"- {text(note)}" for note in one.notes), ""] if one.notes else []
    return "\n".join([*lines, *(f"- {text(line)}" for line in legend(tables))]) + "\n"


def show(tables: Sequence[SweepTable]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    from vlm_core.cli.output import inert

    console = Console(soft_wrap=True, highlight=False)
    for one in tables:
        shown = Table("", box=None, padding=(0, 0, 0, 2), pad_edge=False)
        for title in TITLES.values():
            shown.add_column(title, justify="right")
        for column in shown.columns:
            column.no_wrap = True  # a truncated figure is wrong: a narrow terminal wraps the line
        for name, cells in one.rows.items():
            shown.add_row(inert(name), *map(inert, cells))
        shown.width = console.measure(shown, options=console.options.update(max_width=1000)).maximum
        console.print(inert(one.title, "bold"))
        console.print(shown)
        for note in one.notes:
            console.print(inert(note))
        console.print()
    for line in legend(tables):
        console.print(inert(line))
