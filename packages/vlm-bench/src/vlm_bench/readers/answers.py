"""Answer files: JSON lines `{question_id, text, prompt?}`, as LLaVA's evaluation scripts write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_bench.readers.files import Row, read_jsonl
from vlm_core.errors import UserError


@dataclass(frozen=True)
class Answer:
    """What the model said, and the prompt it saw if the file logs it."""

    text: str
    prompt: str | None = None


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


def read_answers(path: Path) -> dict[str, Answer]:
    """Answers by question id."""
    rows = unique([(row.id("question_id"), row) for row in read_jsonl(path)], "question_id")
    return {
        key: Answer(row.text("text"), row.text("prompt") if "prompt" in row.data else None)
        for key, row in rows.items()
    }
