"""Saved reports, which `--save` writes and `report` and `diff` read: validated when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from vlm_bench.files.json_files import parse_json, read_text
from vlm_core.errors import UserError
from vlm_core.io.strict_json import validated

SCHEMA = 1
"""Version of the format of saved reports."""
_REPORT_KEYS = {"schema", "protocol", "units"}
"""A JSON object with these keys counts as a report."""
_START = '{"schema":'
"""Text that begins like this is a report, even if it is truncated."""


class NoReportError(UserError):
    """A file that is not a report, such as answers or data."""


Ratio = Annotated[list[float | bool], Field(min_length=2, max_length=2)]
"""Numerator and denominator; a hit may be written as true."""


class _Strict(BaseModel):
    """Strict JSON types: a string is not a number."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True)


class _Example(_Strict):
    id: str
    prompt: str
    answer: str
    credit: float
    right: str
    read: str
    image: str | None = None
    image_sha256: str | None = None
    image_base64: str | None = None


class _Difference(_Strict):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True, extra="forbid")
    metric: str
    points: bool
    first: float
    second: float
    low: float
    high: float
    units: NonNegativeInt
    better: NonNegativeInt
    worse: NonNegativeInt
    left_out: NonNegativeInt
    p: float | None


class _Baseline(_Strict):
    name: str
    how: str
    difference: _Difference | None


class _Saved(_Strict):
    """The keys of `Report.as_dict` with units; `content`, `interval` and `baselines` are newer than the others."""

    benchmark: str
    protocol: str
    metric: str
    score: float
    unit: Literal["points", "fraction"]
    partial: bool
    scored: NonNegativeInt
    expected: NonNegativeInt
    missing: int
    rows: dict[str, dict[str, int | float]]
    points: list[str]
    parse: dict[str, int]
    notes: dict[str, str]
    settings: dict[str, Any]
    published: dict[str, float]
    sha256: dict[str, str]
    warnings: list[str]
    combine: Literal["mean", "sum"]
    examples: list[_Example]
    units: dict[str, dict[str, Ratio]]
    content: dict[str, str] = {}
    interval: Annotated[list[float], Field(max_length=2)] = []
    baselines: list[_Baseline] = []


def read_report(path: Path) -> dict[str, Any]:
    """A saved report. Raises `NoReportError` for another file, `UserError` for a damaged or other version's one."""
    data = _read(path)
    if not isinstance(data, dict):
        raise NoReportError(f"{path}: not a report but a JSON {type(data).__name__}")
    if absent := _REPORT_KEYS - data.keys():
        keys = ", ".join(map(repr, data)) or "none"
        raise NoReportError(
            f"{path}: not a report: it lacks {', '.join(sorted(absent))}; its keys are {keys:.120}"
        )
    if data["schema"] != SCHEMA:
        raise UserError(
            f"{path}: a report of format {data['schema']!r:.20}; this version reads {SCHEMA}. Score again"
        )
    return validated(data, _Saved, f"{path}: a damaged report", ". Score again")


def _read(path: Path) -> Any:
    text = ""
    try:
        text = read_text(path)
        return parse_json(text, path)
    except UserError as error:
        kind = UserError if text.startswith(_START) else NoReportError
        raise kind(str(error)) from None
