"""MM-Vet's files: right answers with capabilities, and a judge's grades."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from vlm_bench.files.json_files import json_object
from vlm_bench.files.json_object import Row
from vlm_core.errors import UserError, choices

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
_A_RUN = "a list, one entry a run"


@dataclass(frozen=True)
class Truth:
    """A question as `mm-vet.json` has it; `capabilities` are some of `CAPABILITIES`."""

    question: str
    answer: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class Grades:
    """Each question's grades, one a run, the names of the judges that gave them, and digests of the graded answers.

    Files of the official script have no digests.
    """

    scores: dict[str, list[float]]
    judges: tuple[str, ...] = ()
    answers: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        return max(map(len, self.scores.values()), default=0)


def answer_digest(answer: str) -> str:
    """Digest of a graded answer, for the grade file."""
    return hashlib.sha256(answer.encode()).hexdigest()


def read_truths(path: Path) -> dict[str, Truth]:
    """By id, such as `v1_0`."""
    return {key: _truth(row) for key, row in json_object(path).items()}


def _truth(row: Row) -> Truth:
    capabilities = row.items("capability", str, "a list of names")
    if unknown := [name for name in capabilities if name not in CAPABILITIES]:
        raise UserError(f"{row.where}: unknown capability {unknown[0]!r}{choices(unknown[0], CAPABILITIES)}")
    return Truth(row.text("question"), row.text("answer"), tuple(dict.fromkeys(capabilities)))


def read_grades(path: Path) -> Grades:
    """A grade file `{id: {model: [...], content: [...], score: [...], answer?: digest}}`."""
    rows = json_object(path)
    judges = {str(name) for row in rows.values() for name in row.items("model", what=_A_RUN)}
    digests = {key: row.text("answer") for key, row in rows.items() if row.optional("answer")}
    return Grades({key: _scores(row) for key, row in rows.items()}, tuple(sorted(judges)), digests)


def _scores(row: Row) -> list[float]:
    scores, models = row.items("score", what=_A_RUN), row.items("model", what=_A_RUN)
    for value in scores:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(f"{row.where}: the grade {value!r} is no number from 0 to 1")
    if len(scores) != len(models):
        raise UserError(f"{row.where}: {len(scores)} grades in 'score', but {len(models)} judges in 'model'")
    return [float(value) for value in scores]
