"""VQA-v2's official questions and annotations of the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import json_rows
from vlm_bench.files.json_object import Row
from vlm_bench.files.questions import SHORT
from vlm_core.benchmark import Question
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder

ANSWER_TYPES = ("yes/no", "number", "other")
REFERENCES = 10


def read_rows(path: Path, key: str) -> dict[str, Row]:
    """The rows of the list `key`, by question id."""
    return unique([(row.id("question_id"), row) for row in json_rows(path, key)], "question_id")


def question(key: str, row: Row, images: ImageFolder) -> Question:
    """A row of the question file as LLaVA asks it."""
    if not (number := row.id("image_id")).isdecimal():
        row.wrong("image_id", "a whole number")
    name = f"COCO_val2014_{number.zfill(12)}.jpg"
    return Question(key, f"{row.text('question')}\n{SHORT}", images.path(name, row.where))


def references(row: Row) -> list[str]:
    """The ten reference answers of an annotation."""
    answers = row.items("answers", dict, "a list of objects with 'answer'")
    texts = [answer.get("answer") for answer in answers]
    if not all(isinstance(text, str) for text in texts):
        texts = [Row(f"{row.where}: answer number {n}", a).text("answer") for n, a in enumerate(answers, 1)]
    if len(texts) != REFERENCES:
        raise UserError(f"{row.where}: {len(texts)} reference answers, expected {REFERENCES}")
    return texts


def check_images(asked: Mapping[str, Row], annotations: Mapping[str, Row], labels: Path) -> None:
    """Refuse annotations that belong to other images than the questions of their ids."""
    other = [key for key, row in asked.items() if row.id("image_id") != annotations[key].id("image_id")]
    if other:
        key = other[0]
        raise UserError(
            f"{labels}: {len(other)} of {len(asked)} annotations are of another image than the question of that id, "
            f"first {key}: image {annotations[key].id('image_id')} where {asked[key].id('image_id')} is asked about"
        )
