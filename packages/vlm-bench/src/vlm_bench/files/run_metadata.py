"""Metadata of a run: model, versions, data files and settings, in `<answers>.run.json` next to the answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from vlm_bench.files.json_files import read_json
from vlm_core.errors import UserError
from vlm_core.io.strict_json import validated

ENDING = ".run.json"
SAME_RUN = (
    "benchmark",
    "protocol",
    "model sha256",
    "served model",
    "files",
    "questions sha256",
    "decoding",
    "batch_size",
    "dtype",
    "prefix_reuse",
)
"""Keys that must be equal for all answers of one run, those of its baselines included."""
_REPORT_FIELDS = {
    "benchmark",
    "protocol",
    "files",
    "questions sha256",
    "scored_by",
    "expected",
    "asked",
    "answered",
}
"""Keys that are separate fields of a report."""


class _RunMetadata(BaseModel):
    """The keys that this package reads; earlier versions wrote fewer."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True, protected_namespaces=())
    benchmark: str
    protocol: str | None = None
    model: str | None = None
    versions: dict[str, str] = {}
    files: dict[str, str] = {}
    seconds: NonNegativeFloat = 0.0
    baseline: str = ""
    shuffle_seed: int | None = None
    scored_by: Literal["here", "server", "judge"] = "here"
    expected: NonNegativeInt | None = None
    asked: NonNegativeInt | None = None
    answered: NonNegativeInt | None = None
    left_out: dict[str, int] = Field(default={}, alias="left out")


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in a file; raises `UserError` that names a missing key or one of a wrong type."""
    metadata = read_json(path)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("benchmark"), str):
        raise UserError(f"{path}: expected a JSON object with the name of the benchmark")
    return validated(metadata, _RunMetadata, f"{path}: not what `vlm-bench run` writes")


def metadata_path(answers: Path) -> Path:
    """The path of an answer file's metadata."""
    return answers.with_name(answers.name + ENDING)


def metadata_of(answers: Path, benchmark: str | None = None) -> dict[str, Any]:
    """An answer file's metadata; empty if there is none, as for answers of other programs.

    Raises `UserError` if the answers are to another benchmark than `benchmark`.
    """
    path = metadata_path(answers)
    if not path.is_file():
        return {}
    metadata = read_metadata(path)
    if benchmark not in (None, metadata["benchmark"]):
        raise UserError(
            f"{answers}: answers to {metadata['benchmark']}, according to {path.name}, not to {benchmark}"
        )
    return metadata


def settings_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The run's settings, as a report has them."""
    return {name: value for name, value in metadata.items() if name not in _REPORT_FIELDS}


def changed_files(metadata: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
    """Names of the data files that have changed since the run; `files` are their sha256 by name."""
    return [name for name, digest in metadata.get("files", {}).items() if files.get(name, digest) != digest]
