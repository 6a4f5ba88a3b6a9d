"""MM-Vet's files: right answers with capabilities, and a judge's grades."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_bench.readers.files import json_object
from vlm_bench.readers.row import Row
from vlm_core.errors import UserError


@dataclass(frozen=True)
class Truth:
    """A question as `mm-vet.json` has it; `capabilities` are some of rec, ocr, know, gen, spat, math."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class Grades:
    """Each question's grades, one a run, and the names of the judges that gave them."""

    scores: dict[str, list[float]]
    judges: tuple[str, ...]

    @property
    def runs(self) -> int:
        return max(map(len, self.scores.values()), default=0)


def read_truths(path: Path) -> dict[str, Truth]:
    """By id, such as `v1_0`."""
    return {key: _truth(row) for key, row in json_object(path).items()}


def _truth(row: Row) -> Truth:
    capabilities = row.data.get("capability")
    if not isinstance(capabilities, list) or not all(isinstance(c, str) for c in capabilities):
        raise UserError(f"{row.where}: 'capability' must be a list of names")
    return Truth(row.text("question"), row.text("answer"), tuple(dict.fromkeys(capabilities)))


def read_grades(path: Path) -> Grades:
    """A grade file `{id: {model: [...], content: [...], score: [...]}}`; an empty one has no grades."""
    rows = json_object(path)
    judges = {str(name) for row in rows.values() for name in _list(row, "model")}
    return Grades({key: _scores(row) for key, row in rows.items()}, tuple(sorted(judges)))


def _list(row: Row, key: str) -> list[object]:
    value = row.data.get(key)
    if not isinstance(value, list):
        raise UserError(f"{row.where}: {key!r} must be a list, one entry a run")
    return value


def _scores(row: Row) -> list[float]:
    found = _list(row, "score")
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(f"{row.where}: the grade {value!r} is no number from 0 to 1")
    return [float(value) for value in found if isinstance(value, int | float)]
