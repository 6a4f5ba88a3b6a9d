"""Schemas of what a run's folder holds and is read again: lines of its logs, and evaluations."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
EVALS, LEFT_OUT = "evals.jsonl", "left_out.jsonl"


class Record(BaseModel):
    """The keys that are read; others are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Line(Record):
    """Where a run stood."""

    stage: NonNegativeInt
    step: NonNegativeInt


class _Metrics(_Line):
    name: str
    loss: FiniteFloat | None
    lr: dict[str, FiniteFloat]
    skipped: NonNegativeInt
    grad_norm: FiniteFloat | None = None
    samples_per_second: FiniteFloat | None = None
    tokens_per_second: FiniteFloat | None = None
    data_wait: FiniteFloat | None = None
    mfu: FiniteFloat | None = None
    peak_memory: FiniteFloat = 0


class _Sample(Record):
    asked: str
    said: str
    truth: str
    images: list[str]
    thumbnail: str = ""


class _Validation(_Line):
    name: str
    loss: FiniteFloat | None
    samples: list[_Sample]
    average_loss: FiniteFloat | None = None


class _Figure(Record):
    protocol: str
    metric: str
    score: FiniteFloat
    unit: str
    partial: bool
    scored: NonNegativeInt
    expected: NonNegativeInt


class _Evals(_Line):
    name: str
    weights: str
    benchmarks: dict[str, _Figure]


class _LeftOut(_Line):
    row: NonNegativeInt
    reason: str
    message: str


LINES: dict[str, type[Record]] = {
    METRICS: _Metrics, VALIDATION: _Validation, EVALS: _Evals, LEFT_OUT: _LeftOut,
}  # fmt: skip
"""Schemas of lines by the name of the log."""


class _Overlap(Record):
    rows: NonNegativeInt
    trained_on: NonNegativeInt
    stages: dict[str, NonNegativeInt]


class _TrainingRows(Record):
    counted: NonNegativeInt
    unreadable: NonNegativeInt
    stage: str


class _Answer(Record):
    said: str
    truth: str


class Evaluation(Record):
    """A file of `evaluations/`."""

    questions: NonNegativeInt
    accuracy: dict[str, FiniteFloat]
    overlap: _Overlap | None = None
    left_out: dict[str, NonNegativeInt] = {}
    training_rows: _TrainingRows | dict[str, Any] = {}
    of: dict[str, Any] = {}
    answers: list[_Answer] = []
