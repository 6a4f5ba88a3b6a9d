"""What `vlm-bench run` writes beside an answer file: which model answered, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from vlm_bench.files.json_files import read_json
from vlm_core.errors import UserError
from vlm_core.io.json_text import validated

ENDING = ".run.json"
_ELSEWHERE = {
    "benchmark", "protocol", "files", "questions sha256", "scored_by", "expected", "asked", "answered",
}  # fmt: skip
"""What an account holds and a report says in its own place."""


class _Account(BaseModel):
    """What is used of an account by more than its name; earlier versions wrote less."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())
    benchmark: str
    protocol: str | None = None
    model: str | None = None
    versions: dict[str, str] = {}
    files: dict[str, str] = {}
    seconds: NonNegativeFloat = 0.0
    scored_by: Literal["here", "server", "judge"] = "here"
    expected: NonNegativeInt | None = None
    asked: NonNegativeInt | None = None
    answered: NonNegativeInt | None = None
    left_out: dict[str, int] = Field(default={}, alias="left out")


def read_account(path: Path) -> dict[str, Any]:
    """The account in a file; raises `UserError` naming the key that is missing or of a wrong type."""
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("benchmark"), str):
        raise UserError(f"{path}: expected a JSON object with the name of the benchmark")
    return validated(found, _Account, f"{path}: not what `vlm-bench run` writes")


def beside(answers: Path) -> Path:
    """Where the account of an answer file is."""
    return answers.with_name(answers.name + ENDING)


def read_run(answers: Path, benchmark: str | None = None) -> dict[str, Any]:
    """The account; empty if there is none, as for answers that other programs wrote.

    Raises `UserError` if the answers are to another benchmark than `benchmark`.
    """
    path = beside(answers)
    if not path.is_file():
        return {}
    found = read_account(path)
    if benchmark not in (None, found["benchmark"]):
        raise UserError(
            f"{answers}: answers to {found['benchmark']}, as {path.name} says, not to {benchmark}"
        )
    return found


def settings_of(account: Mapping[str, Any]) -> dict[str, Any]:
    """How the answers were made."""
    return {name: value for name, value in account.items() if name not in _ELSEWHERE}


def changed_files(account: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
    """Data files, as sha256 by name, that are no longer those which the model was asked from."""
    return [name for name, digest in account.get("files", {}).items() if files.get(name, digest) != digest]
