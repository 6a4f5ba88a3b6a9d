"""The metrics of one finished run of a sweep, by column of the sweep's table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vlm_core.evaluation.baselines import IMAGES_SHUFFLED, MAJORITY_ANSWER
from vlm_train.checkpoint.run_dir import EVALS, RunDir
from vlm_train.evaluation.controls import CHANGES
from vlm_train.evaluation.held_out_answers import ALL
from vlm_train.report import benchmark_table
from vlm_train.report.benchmark_table import Record
from vlm_train.report.results import metric, notes

Kind = Literal["accuracy", "control", "benchmark"]
_KINDS = ("accuracy", "control", "benchmark")


@dataclass(frozen=True)
class Column:
    """A metric: an accuracy of `train.held_out_qa`, a control of it, or a benchmark of `train.benchmarks`.

    The values of one column are comparable: benchmarks of different metric, unit or protocol have different columns.
    """

    kind: Kind
    name: str
    title: str
    unit: Literal["%", "points"] = "%"
    protocol: str = ""

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key: accuracies (`all` first), controls, benchmarks."""
        later = self.name not in (ALL, IMAGES_SHUFFLED)
        return _KINDS.index(self.kind), later, self.name, self.title, self.protocol


@dataclass(frozen=True)
class Figure:
    """A value, the questions that it is computed from (`scored`), and those of the benchmark (`expected`)."""

    value: float
    scored: int
    expected: int
    partial: bool = False


@dataclass(frozen=True)
class Measures:
    """All figures of a run, the name of its accuracy (held-out or not), and notes on the figures."""

    figures: dict[Column, Figure]
    accuracy: str
    notes: list[str]


def measures(run: RunDir, last_stage: str) -> Measures:
    """The figures of a finished run after its last stage."""
    names = (f"after {last_stage}", *CHANGES, MAJORITY_ANSWER)
    records = [(name, record) for name in names if (record := run.evaluation(name))]
    figures = {column: figure for name, record in records for column, figure in _accuracies(name, record)}
    accuracy = metric(record.get("overlap") for _, record in records) if records else ""
    ends = [m for m in benchmark_table.ends(run.records(EVALS)) if m["name"] == last_stage]
    for name, result in ends[-1]["benchmarks"].items() if ends else ():
        column, figure = _benchmark(name, result)
        figures[column] = figure
    return Measures(figures, accuracy, notes(records))


def _accuracies(name: str, record: Record) -> Iterator[tuple[Column, Figure]]:
    control = name in (*CHANGES, MAJORITY_ANSWER)
    for category, value in record["accuracy"].items():
        figure = Figure(value, record.get("questions", 0), record.get("questions", 0))
        if control and category == ALL:
            yield Column("control", name, name), figure
        elif not control:
            yield Column("accuracy", category, category), figure


def _benchmark(name: str, result: Record) -> tuple[Column, Figure]:
    unit = "points" if result["unit"] == "points" else "%"
    column = Column("benchmark", name, benchmark_table.title(name, result), unit, result["protocol"])
    return column, Figure(
        benchmark_table.value(result), result["scored"], result["expected"], result["partial"]
    )
