"""What one finished run of a sweep measured, by column of the sweep's table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vlm_train.checkpoint.run_dir import EVALS, RunDir
from vlm_train.evaluation.controls import QUESTION_ALONE, SHUFFLED
from vlm_train.evaluation.held_out_answers import ALL
from vlm_train.report import benchmark_table
from vlm_train.report.benchmark_table import Record
from vlm_train.report.results import metric, notes

Kind = Literal["accuracy", "control", "benchmark"]
_KINDS = ("accuracy", "control", "benchmark")


@dataclass(frozen=True)
class Column:
    """A metric: an accuracy of `train.held_out_qa`, a control of it, or a benchmark of `train.benchmarks`.

    Figures of one column can be compared: a benchmark's columns differ in metric, unit and protocol.
    """

    kind: Kind
    name: str
    title: str
    unit: Literal["%", "points"] = "%"
    protocol: str = ""

    @property
    def order(self) -> tuple[object, ...]:
        """Accuracies, `all` first, then controls, then benchmarks."""
        first = self.name not in (ALL, SHUFFLED)
        return _KINDS.index(self.kind), first, self.name, self.title, self.protocol


@dataclass(frozen=True)
class Figure:
    """A value, and how many questions it is over; `partial` if the benchmark has more."""

    value: float
    scored: int
    expected: int
    partial: bool = False


@dataclass(frozen=True)
class Measures:
    """All figures of a run, the name of its accuracy, and notes on its figures."""

    figures: dict[Column, Figure]
    accuracy: str
    notes: list[str]


def measures(run: RunDir, last_stage: str) -> Measures:
    """What a finished run measured after its last stage."""
    names = (f"after {last_stage}", SHUFFLED, QUESTION_ALONE)
    records = [(name, record) for name in names if (record := run.evaluation(name))]
    figures = {column: figure for name, record in records for column, figure in _accuracies(name, record)}
    accuracy = metric(record.get("overlap") for _, record in records) if records else ""
    ends = [m for m in benchmark_table.ends(run.records(EVALS)) if m["name"] == last_stage]
    for name, found in ends[-1]["benchmarks"].items() if ends else ():
        column, figure = _benchmark(name, found)
        figures[column] = figure
    return Measures(figures, accuracy, notes(records))


def _accuracies(name: str, record: Record) -> Iterator[tuple[Column, Figure]]:
    control = name in (SHUFFLED, QUESTION_ALONE)
    for category, value in record["accuracy"].items():
        figure = Figure(value, record.get("questions", 0), record.get("questions", 0))
        if control and category == ALL:
            yield Column("control", name, name), figure
        elif not control:
            yield Column("accuracy", category, category), figure


def _benchmark(name: str, found: Record) -> tuple[Column, Figure]:
    unit = "points" if found["unit"] == "points" else "%"
    column = Column("benchmark", name, benchmark_table.title(name, found), unit, found["protocol"])
    return column, Figure(benchmark_table.value(found), found["scored"], found["expected"], found["partial"])
