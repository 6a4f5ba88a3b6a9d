"""Answer files: LLaVA's JSON lines and the result files that evaluation servers and official scripts use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.readers.files import Row, as_row, read_jsonl, read_text
from vlm_core.errors import UserError

# where id, text and logged prompt stand
LINES = ("question_id", "text", "prompt")
LISTS = {
    "question_id": ("question_id", "answer", None),  # VQA-v2
    "questionId": ("questionId", "prediction", None),  # GQA
}
ANALYSIS = ("question_id", "pred", "question")  # ScienceQA, as LLaVA's script writes it


@dataclass(frozen=True)
class Answer:
    """What the model said to the question with this id, the prompt it saw if the file logs it, and where it stands."""

    id: str
    text: str
    prompt: str | None = None
    where: str = ""


def unique(items: list[tuple[str, Row]], what: str) -> dict[str, Row]:
    """Rows by key; a key that stands twice is an error with the number of such keys."""
    found: dict[str, Row] = {}
    twice: list[tuple[str, Row]] = []
    for key, row in items:
        if key in found:
            twice.append((key, row))
        found.setdefault(key, row)
    if twice:
        key, row = twice[0]
        raise UserError(
            f"{row.where}: {what} {key} stands twice (first at {found[key].where}); {len(twice)} such rows"
        )
    return found


def read_answers(path: Path) -> list[Answer]:
    """Answers in the file's order, from any of

    - JSON lines `{question_id, text, prompt?}`,
    - a JSON list `[{question_id, answer}]` or `[{questionId, prediction}]`,
    - a JSON object `{id: text}`, or ScienceQA's `{correct: [...], incorrect: [...]}`.
    """
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError:
        return [_answer(row, *LINES) for row in read_jsonl(path)]
    if isinstance(data, list) and data:
        return _listed(path, data)
    if isinstance(data, dict) and data and not data.keys() & {"question_id", "text"}:
        return list(_mapped(path, data))
    return [_answer(row, *LINES) for row in read_jsonl(path)]


def _answer(row: Row, key: str, text: str, prompt: str | None) -> Answer:
    logged = row.text(prompt) if prompt is not None and prompt in row.data else None
    return Answer(row.id(key), row.text(text), logged, row.where)


def _listed(path: Path, data: list[Any]) -> list[Answer]:
    rows = [as_row(item, f"{path}: answer number {n}") for n, item in enumerate(data, 1)]
    for key, fields in LISTS.items():
        if key in rows[0].data:
            return [_answer(row, *fields) for row in rows]
    raise UserError(f"{rows[0].where}: expected question_id and answer, or questionId and prediction")


def _mapped(path: Path, data: dict[str, Any]) -> Iterator[Answer]:
    if data.keys() == {"correct", "incorrect"}:
        for part, items in data.items():
            if not isinstance(items, list):
                raise UserError(f"{path}: {part!r} must be a list")
            for n, item in enumerate(items, 1):
                yield _answer(as_row(item, f"{path}: {part} number {n}"), *ANALYSIS)
        return
    row = Row(str(path), data)
    for key in data:
        yield Answer(key, row.text(key), where=f"{path}: {key}")
