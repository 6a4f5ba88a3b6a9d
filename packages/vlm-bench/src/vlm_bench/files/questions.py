"""LLaVA's question files: JSON lines `{question_id, image, text, category}`, the answer instruction inside `text`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import read_jsonl
from vlm_bench.files.json_object import Row

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


class Asked(NamedTuple):
    """One line; the file's `id` need not be unique."""

    id: str
    image: str
    text: str
    category: str
    where: str

    @property
    def question(self) -> str:
        """The text without the answer instruction: its first line."""
        return self.text.split("\n")[0]


def asked(key: str, image: str, question: str, where: str, category: str = "default") -> Asked:
    """A question of an official file in LLaVA's form: the question and the instruction to answer briefly."""
    return Asked(key, image, f"{question}\n{SHORT}", category, where)


def read_questions(path: Path, *, distinct: bool = True) -> list[Asked]:
    """Every line in order; with `distinct`, an id that appears twice is an error."""
    rows = [(row.id("question_id"), row) for row in read_jsonl(path)]
    if distinct:
        unique(rows, "question_id")
    return [_asked(key, row) for key, row in rows]


def _asked(key: str, row: Row) -> Asked:
    category = row.text("category") if row.optional("category") else "default"
    return Asked(key, row.named("image"), row.text("text"), category, row.where)
