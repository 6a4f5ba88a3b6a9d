"""ScienceQA's files in LLaVA's layout: questions as conversations, answers as JSON lines or its analysis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_bench.readers.answers import Answer, read_answers, unique
from vlm_bench.readers.files import Row, as_row, read_text
from vlm_bench.scorers.scienceqa import LETTERS
from vlm_core.errors import UserError, choices


@dataclass(frozen=True)
class Question:
    """A question with its right letter; `image` tells whether it belongs to the IMG subset."""

    prompt: str
    right: str
    image: bool


def read_questions(path: Path) -> dict[str, Question]:
    """`llava_test_CQM-A.json` by id: the human turn is the prompt, the other one the right letter."""
    items = _load(path)
    if not isinstance(items, list):
        raise UserError(f"{path}: expected a JSON list of questions")
    rows = [as_row(item, f"{path}: question number {n}") for n, item in enumerate(items, 1)]
    return {key: _question(row) for key, row in unique([(r.id("id"), r) for r in rows], "id").items()}


def _question(row: Row) -> Question:
    turns = row.data.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2:
        raise UserError(f"{row.where}: 'conversations' must hold a question and its answer")
    human, right = (as_row(turn, row.where).text("value") for turn in turns)
    if right not in LETTERS:
        raise UserError(f"{row.where}: the right answer is {right!r}{choices(right, LETTERS)}")
    return Question(human, right, "image" in row.data)


def read_scienceqa_answers(path: Path) -> dict[str, Answer]:
    """Answers by id, from JSON lines or from the `{correct, incorrect}` analysis that LLaVA publishes."""
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError:
        return read_answers(path)
    if not isinstance(data, dict) or not data.keys() >= {"correct", "incorrect"}:
        return read_answers(path)
    rows = unique([(row.id("question_id"), row) for row in _analysed(path, data)], "question_id")
    return {key: Answer(row.text("pred"), row.text("question")) for key, row in rows.items()}


def _analysed(path: Path, data: dict[str, object]) -> Iterator[Row]:
    for part in ("correct", "incorrect"):
        items = data[part]
        if not isinstance(items, list):
            raise UserError(f"{path}: {part!r} must be a list")
        yield from (as_row(item, f"{path}: {part} number {n}") for n, item in enumerate(items, 1))


def _load(path: Path) -> object:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); is the file cut off?"
        ) from None
