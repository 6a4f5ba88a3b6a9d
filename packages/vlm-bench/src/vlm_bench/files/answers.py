"""Answer files: LLaVA's JSON lines and the result files that evaluation servers and official scripts use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.files.json_files import parse_json, read_jsonl, read_text
from vlm_bench.files.json_object import Row, as_row
from vlm_core.errors import UserError

# keys of id, text and logged prompt
LINES = ("question_id", "text", "prompt")
LISTS = {
    ("question_id", "text"): LINES,
    ("question_id", "answer"): ("question_id", "answer", None),  # VQA-v2
    ("questionId", "prediction"): ("questionId", "prediction", None),  # GQA
    ("image", "answer"): ("image", "answer", None),  # VizWiz
}
ANALYSIS = ("question_id", "pred", "question")  # ScienceQA, as LLaVA's script writes it
FIELDS = {name for fields in (*LISTS.values(), ANALYSIS) for name in fields if name}
"""An object with one of these keys is one answer, not answers by id."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to the question `id`, its prompt if the file logs it, and its place in the file.

    `baseline` names the baseline that the answer belongs to; "" for the model's own answer.
    """

    id: str
    text: str
    prompt: str | None = None
    where: str = ""
    baseline: str = ""


def unique(items: list[tuple[str, Row]], what: str) -> dict[str, Row]:
    """Rows by key; a key that appears twice is an error with the number of such keys."""
    rows: dict[str, Row] = {}
    twice: list[tuple[str, Row]] = []
    for key, row in items:
        if key in rows:
            twice.append((key, row))
        rows.setdefault(key, row)
    if twice:
        key, row = twice[0]
        raise UserError(
            f"{row.where}: {what} {key} appears twice (first at {rows[key].where}); {len(twice)} such rows"
        )
    return rows


def read_answers(path: Path) -> list[Answer]:
    """Answers in the file's order, from any of

    - JSON lines `{question_id, text, prompt?}`, or a JSON list of them,
    - a JSON list `[{question_id, answer}]`, `[{questionId, prediction}]` or `[{image, answer}]`,
    - a JSON object `{id: text}`, or ScienceQA's `{correct: [...], incorrect: [...]}`.
    """
    text = read_text(path)
    if _by_line(text):
        return [_answer(row, *LINES) for row in read_jsonl(path)]
    data = parse_json(text, path)
    if isinstance(data, list) and data:
        return _listed(path, data)
    if isinstance(data, dict) and data and not data.keys() & FIELDS:
        return list(_mapped(path, data))
    if isinstance(data, dict) and data:
        return [_answer(Row(f"{path}: the only object", data), *LINES)]
    raise UserError(f"{path}: holds no answers")


def _by_line(text: str) -> bool:
    """Whether the text is JSON lines, judged by its first line; a single object counts if it is one answer."""
    first, _, others = text.strip().partition("\n")
    try:
        value = json.loads(first)
    except RecursionError:
        return bool(others.strip())
    except ValueError:
        return not first.startswith(("{", "["))
    return isinstance(value, dict) and (bool(others.strip()) or not value or bool(value.keys() & FIELDS))


def _answer(row: Row, key: str, text: str, prompt: str | None) -> Answer:
    logged = row.text(prompt) if prompt is not None and row.optional(prompt) else None
    metadata = row.data.get("metadata")
    baseline = metadata.get("baseline", "") if isinstance(metadata, dict) else ""
    return Answer(row.id(key), row.text(text), logged, row.where, str(baseline))


def _listed(path: Path, data: list[Any]) -> list[Answer]:
    rows = [as_row(item, f"{path}: answer number {n}") for n, item in enumerate(data, 1)]
    for keys, fields in LISTS.items():
        if rows[0].data.keys() >= set(keys):
            return [_answer(row, *fields) for row in rows]
    names = ", ".join(map(repr, rows[0].data)) or "none"
    wanted = ", or ".join(" and ".join(map(repr, keys)) for keys in LISTS)
    raise UserError(f"{rows[0].where}: expected the keys {wanted}; its keys are {names:.200}")


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
