"""`SEED-Bench.json`: questions about images and videos, with options and right letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm_bench.benchmarks.seed_image.scoring import LETTERS
from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import json_rows, read_json
from vlm_bench.files.json_object import Row
from vlm_bench.files.questions import LETTER, Asked
from vlm_core.errors import UserError

FOLDER = "SEED-Bench-image"
DATA_TYPES = ("image", "video")


@dataclass(frozen=True)
class Label:
    """A question with its options and right letter; `kind` is the name of its type, such as "Scene Understanding"."""

    question: str
    options: tuple[str, ...]
    right: str
    kind: str
    data_type: str
    image: str
    where: str

    def asked(self, key: str) -> Asked:
        """The question as LLaVA asks it."""
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=True)]
        text = "\n".join([self.question, *lines, LETTER])
        return Asked(key, f"{FOLDER}/{self.image}", text, "default", self.where)


def read_labels(path: Path) -> dict[str, Label]:
    """All questions by id, videos' too."""
    kinds = _kinds(path)
    rows = unique([(row.id("question_id"), row) for row in json_rows(path, "questions")], "question_id")
    return {key: _label(row, kinds) for key, row in rows.items()}


def _kinds(path: Path) -> dict[int, str]:
    """Names of the types of questions, by number."""
    data = read_json(path)
    kinds = data.get("question_type") if isinstance(data, dict) else None
    if not isinstance(kinds, dict) or not all(type(number) is int for number in kinds.values()):
        raise UserError(f"{path}: expected a JSON object with 'question_type', the numbers of types by name")
    return {number: name for name, number in kinds.items()}


def _label(row: Row, kinds: Mapping[int, str]) -> Label:
    number = row.data.get("question_type_id")
    if type(number) is not int or number not in kinds:
        row.wrong("question_type_id", f"one of {', '.join(map(str, sorted(kinds)))}")
    data_type = row.one_of("data_type", DATA_TYPES)
    return Label(
        question=row.text("question"),
        options=tuple(row.text(f"choice_{letter.lower()}") for letter in LETTERS),
        right=row.one_of("answer", LETTERS),
        kind=kinds[number],
        data_type=data_type,
        image=row.named("data_id") if data_type == "image" else "",
        where=row.where,
    )
