"""Confidence intervals, paired tests between rows over the common seeds, and which runs have converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

from vlm_core.markup.markdown import table, text
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.sweep.curves import Curves, curves, draw
from vlm_train.sweep.jobs import Job
from vlm_train.sweep.statistics import PairedTest, half_width, holm, paired_test
from vlm_train.sweep.table import Line, columns

Values = Mapping[str, Mapping[int, float]]
"""One metric, by row and seed."""

INTERVALS = (
    "Means with 95 % t intervals over the seeds. *steps to learn*: the first measured step within 5 points of the "
    "run's best validation accuracy. *converged*: runs whose validation accuracies over the last tenth of the steps are "
    "all within a point of their best."
)
TESTS = (
    "Two-sided paired t-tests over the common seeds, of the row minus the other row, with the 95 % interval of the "
    "difference. *p, adjusted*: by Holm's method, for the number of pairs in this table. –: equal differences."
)


def write(folder: Path, lines: Sequence[Line], jobs: Sequence[Job]) -> list[Path]:
    """Write `comparison.md` and, if the runs have validation accuracies, `curves.png`; -> paths.

    A sweep of one seed has nothing to compare: no file.
    """
    measured = curves(jobs)
    drawn = [draw(measured, folder / "curves.png")] if measured else []
    if max((len(line.seeds) for line in lines), default=0) < 2:
        return drawn
    return [RunDir(folder).write("comparison.md", markdown(lines, measured)), *drawn]


def markdown(lines: Sequence[Line], measured: Curves) -> str:
    """The table of intervals, then a table of paired tests for each metric that differs between runs."""
    metrics = _metrics(lines, measured)
    parts = [INTERVALS, "", *_intervals(lines, metrics, measured), "", TESTS]
    for title, values in metrics.items():
        if tests := _tests(values):
            parts += ["", f"**{text(title)}**", "", *tests]
    return "\n".join(parts) + "\n"


def _metrics(lines: Sequence[Line], measured: Curves) -> dict[str, Values]:
    """Accuracies and benchmarks, and the steps to learn."""
    metrics: dict[str, Values] = {
        title: {line.name: line.cells[column].values for line in lines if column in line.cells}
        for column, title in columns(lines).items()
        if column.kind != "control"
    }
    if measured:
        metrics["steps to learn"] = {
            name: {seed: float(one.steps_to_learn) for seed, one in by_seed.items()}
            for name, by_seed in measured.items()
        }
    return metrics


def _intervals(lines: Sequence[Line], metrics: Mapping[str, Values], measured: Curves) -> list[str]:
    head = ["", "n", *metrics, *(["converged"] if measured else [])]
    rows = []
    for line in lines:
        cells = [_interval(list(values.get(line.name, {}).values())) for values in metrics.values()]
        if measured:
            runs = measured.get(line.name, {}).values()
            cells.append(f"{sum(one.converged for one in runs)} of {len(runs)}")
        rows.append([line.name, len(line.seeds), *cells])
    return table([head, *rows], right=1)


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "–"
    width = half_width(values)
    return f"{fmean(values):.1f}" + ("" if width is None else f" ± {width:.1f}")


def _tests(values: Values) -> list[str]:
    """A row for each pair of rows; none if all runs of all rows have the same value."""
    if len({value for by_seed in values.values() for value in by_seed.values()}) < 2:
        return []
    tests: dict[tuple[str, str], PairedTest] = {
        (a, b): test for a, b in combinations(values, 2) if (test := paired_test(values[a], values[b]))
    }
    tested = {pair: test.p for pair, test in tests.items() if test.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    rows = [
        [*pair, test.n, f"{test.difference:+.1f} ± {test.half_width:.1f}", _p(test.p), _p(adjusted.get(pair))]
        for pair, test in tests.items()
    ]
    head = ["row", "other row", "n", "difference", "p", "p, adjusted"]
    return table([head, *rows], right=2) if rows else []


def _p(value: float | None) -> str:
    return "–" if value is None else "below 0.001" if value < 0.001 else f"{value:.3f}"
