"""VizWiz's official files, `val.json` with answers and `test.json` without, and LLaVA's questions of the test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import json_rows
from vlm_bench.files.json_object import Row
from vlm_bench.files.questions import SHORT, Asked
from vlm_core.errors import UserError

ANSWER_TYPES = ("other", "unanswerable", "yes/no", "number")
REFERENCES = 10
INSTRUCTION = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"
"""LLaVA-1.5's answer instruction for VizWiz."""


@dataclass(frozen=True)
class Label:
    """The ten reference answers, their type, and whether the question can be answered."""

    references: list[str]
    answer_type: str
    answerable: bool


def read_rows(path: Path) -> dict[str, Row]:
    """The rows by image, which each have one question."""
    return unique([(row.named("image"), row) for row in json_rows(path)], "image")


def question(image: str, row: Row) -> Asked:
    """A row as LLaVA asks it; the id is the image."""
    return Asked(image, image, f"{row.text('question')}\n{INSTRUCTION}", "default", row.where)


def label(row: Row) -> Label:
    """The label of a row of `val.json`."""
    if "answers" not in row.data:
        raise UserError(
            f"{row.where}: 'answers' is missing; is this the test set, whose answers are not public?"
        )
    answers = row.items("answers", dict, "a list of objects with 'answer'")
    texts = [Row(f"{row.where}: answer number {n}", a).text("answer") for n, a in enumerate(answers, 1)]
    if len(texts) != REFERENCES:
        raise UserError(f"{row.where}: {len(texts)} reference answers, expected {REFERENCES}")
    answerable = row.data.get("answerable")
    if isinstance(answerable, bool) or answerable not in (0, 1):
        row.wrong("answerable", "0 or 1")
    return Label(texts, row.one_of("answer_type", ANSWER_TYPES), answerable == 1)
