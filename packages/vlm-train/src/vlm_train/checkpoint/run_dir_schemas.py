"""Schemas of the files that are read from a run folder, which may be a stranger's; only keys in use are listed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field

from vlm_core.io.strict_json import validated

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
EVALS, DROPPED_SAMPLES = "evals.jsonl", "left_out.jsonl"
Count = Annotated[int, Field(ge=0, le=10**15)]
Loss = Annotated[float, AllowInfNan(True)]
"""A loss may have diverged."""


class _Record(BaseModel):
    """Strict types: a string is no number. Further keys are allowed."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Place(_Record):
    """A step of a stage."""

    stage: Count
    name: str
    step: Count


class Step(_Place):
    """A line of `metrics.jsonl`."""

    loss: Loss | None
    skipped: Count
    grad_norm: Loss | None = None
    lr: dict[str, float] | float | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    data_wait: float | None = None
    peak_memory: Count = 0
    mfu: float | None = None


class _Sample(_Record):
    """A question of a validation: names of its images, and a thumbnail of the first as a data URL."""

    asked: str
    said: str
    truth: str
    images: list[str]
    thumbnail: str | None = None


class Validation(_Place):
    """A line of `validation.jsonl`."""

    loss: Loss | None
    average_loss: Loss | None = None
    samples: list[_Sample] = []
    questions: Count = 0
    accuracy: dict[str, float] = {}


class _Benchmark(_Record):
    metric: str
    score: float
    unit: Literal["points", "fraction"]
    partial: bool
    scored: Count
    expected: Count
    protocol: str = ""
    baselines: dict[str, float] = {}


class Evals(_Place):
    """A line of `evals.jsonl`."""

    weights: str
    benchmarks: dict[str, _Benchmark]


class DroppedSample(_Record):
    """A line of `left_out.jsonl`."""

    stage: Count
    step: Count
    row: Count
    reason: str
    message: str


LINES: dict[str, type[BaseModel]] = {
    METRICS: Step,
    VALIDATION: Validation,
    EVALS: Evals,
    DROPPED_SAMPLES: DroppedSample,
}
"""Schemas of lines by the name of the log."""


class _Overlap(_Record):
    rows: Count
    trained_on: Count
    stages: dict[str, Count] = {}


class _TrainingRows(_Record):
    counted: Count
    unreadable: Count
    stage: str


class _Answer(_Record):
    said: str
    truth: str


class Evaluation(_Record):
    """A file of `evaluations/`."""

    questions: Count
    accuracy: dict[str, float]
    overlap: _Overlap | None = None
    left_out: dict[str, Count] = {}
    training_rows: _TrainingRows | None = None
    answers: list[_Answer] = []


class _Stage(_Record):
    name: str
    trainable: list[str]


class _Train(_Record):
    stages: Annotated[list[_Stage], Field(min_length=1)]


class Spec(_Record):
    """The keys of a spec that the report of a run uses."""

    name: str | None = None
    train: _Train


def checked(data: Any, model: type[BaseModel], where: str) -> dict[str, Any]:
    """Return `data`; raises `UserError` with `where` (a file, or a line of one) if `model` rejects it."""
    return validated(data, model, f"{where}: not what vlm-train writes")
