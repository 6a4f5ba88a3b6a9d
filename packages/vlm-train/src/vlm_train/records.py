"""What the files of a run folder hold, as far as it is used: checked on reading, since a folder may be anybody's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field

from vlm_core.json_text import validated
from vlm_train.rundir_names import EVALS, LEFT_OUT, METRICS, VALIDATION

Count = Annotated[int, Field(ge=0, le=10**15)]
Loss = Annotated[float, AllowInfNan(True)]
"""A loss may have diverged."""


class _Record(BaseModel):
    """JSON's own types: a text that spells a number is none. Further keys are welcome."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Place(_Record):
    """A step of a stage."""

    stage: Count
    name: str
    step: Count


class _Step(_Place):
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
    """A question that was asked while training: its images by name, a small copy of the first one."""

    asked: str
    said: str
    truth: str
    images: list[str]
    thumbnail: str | None = None


class _Validation(_Place):
    loss: Loss | None
    average_loss: Loss | None = None
    samples: list[_Sample] = []


class _Benchmark(_Record):
    metric: str
    score: float
    unit: Literal["points", "fraction"]
    partial: bool
    scored: Count
    expected: Count
    protocol: str = ""


class _Evals(_Place):
    weights: str
    benchmarks: dict[str, _Benchmark]


class _LeftOut(_Record):
    stage: Count
    step: Count
    row: Count
    reason: str
    message: str


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


class _Evaluation(_Record):
    questions: Count
    accuracy: dict[str, float]
    overlap: _Overlap | None = None
    left_out: dict[str, Count] = {}
    training_rows: _TrainingRows | None = None
    answers: list[_Answer] = []


class _Stage(_Record):
    name: str
    trains: list[str]


class _Train(_Record):
    stages: Annotated[list[_Stage], Field(min_length=1)]


class _Spec(_Record):
    """What the page about a run uses of its spec."""

    name: str | None = None
    train: _Train


_LINES: dict[str, type[BaseModel]] = {
    METRICS: _Step, VALIDATION: _Validation, EVALS: _Evals, LEFT_OUT: _LeftOut,
}  # fmt: skip


def line_of(name: str, data: Any, where: str) -> dict[str, Any]:
    """A line of file `name`; raises `UserError` with `where` for a wrong one."""
    return _checked(data, _LINES[name], where)


def evaluation_of(data: Any, where: str) -> dict[str, Any]:
    """An evaluation."""
    return _checked(data, _Evaluation, where)


def spec_of(data: Any, where: str) -> dict[str, Any]:
    """The spec of a run."""
    return _checked(data, _Spec, where)


def _checked(data: Any, model: type[BaseModel], where: str) -> dict[str, Any]:
    return validated(data, model, f"{where}: not what vlm-train writes")
