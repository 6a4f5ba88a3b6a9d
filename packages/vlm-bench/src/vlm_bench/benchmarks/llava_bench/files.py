"""The judge's reviews of LLaVA-Bench: JSON lines `{question_id, category, tuple: [reference, model]}`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import read_jsonl
from vlm_bench.files.json_object import Row
from vlm_core.errors import UserError

CATEGORIES = ("conv", "detail", "complex")
PREFIX = "llava_bench_"
UNREADABLE = [-1, -1]
"""What LLaVA's script writes where it finds no two scores in the judge's reply."""
HIGHEST = 10


@dataclass(frozen=True)
class Review:
    """A judge's scores, from 1 to 10, of the reference answer and of the model's; None if unreadable."""

    category: str
    scores: tuple[float, float] | None


def read_reviews(path: Path) -> dict[str, Review]:
    """By question id."""
    rows = unique([(row.id("question_id"), row) for row in read_jsonl(path)], "question_id")
    return {key: _review(row) for key, row in rows.items()}


def _review(row: Row) -> Review:
    category = row.one_of("category", [PREFIX + name for name in CATEGORIES]).removeprefix(PREFIX)
    scores = row.items("tuple", what="two scores, of the reference and of the model")
    if scores == UNREADABLE:
        return Review(category, None)
    if len(scores) != 2 or not all(map(_is_score, scores)):
        raise UserError(
            f"{row.where}: 'tuple' is {scores!r:.60}, expected two scores from 0 to {HIGHEST}, of the reference and of "
            "the model"
        )
    return Review(category, (float(scores[0]), float(scores[1])))


def _is_score(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= HIGHEST
