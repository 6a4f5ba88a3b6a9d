"""ScienceQA: `llava_test_CQM-A.json`, questions as conversations, or the official `problems.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vlm_bench.readers.answers import unique
from vlm_bench.readers.files import json_object, json_rows, read_json
from vlm_bench.readers.questions import LETTER
from vlm_bench.readers.row import Row, as_row
from vlm_bench.scorers.scienceqa import LETTERS
from vlm_core.errors import UserError, choices

IMAGE = "<image>"
_OPTION = re.compile(r"^([A-E])\. (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question with its right letter; `image` is set in the IMG subset, as a path below the image folder."""

    prompt: str
    right: str
    image: str | None
    choices: tuple[str, ...]


def read_questions(path: Path) -> dict[str, Question]:
    """By id: the human turn is the question, the other one the right letter."""
    rows = unique([(row.id("id"), row) for row in json_rows(path)], "id")
    return {key: _question(row) for key, row in rows.items()}


def read_official(path: Path, splits: Path) -> dict[str, Question]:
    """The test set by id, asked as LLaVA asks: context, question, options a line each."""
    problems, chosen = json_object(path), read_json(splits)
    keys = chosen.get("test") if isinstance(chosen, dict) else None
    if not isinstance(keys, list) or not keys:
        raise UserError(f"{splits}: expected a JSON object with a list 'test' of ids")
    if absent := [key for key in keys if str(key) not in problems]:
        raise UserError(
            f"{path}: {len(absent)} of {len(keys)} test questions are not there, first id {absent[0]}"
        )
    return {str(key): _problem(str(key), problems[str(key)]) for key in keys}


def _problem(key: str, row: Row) -> Question:
    options, right = row.data.get("choices"), row.data.get("answer")
    if not isinstance(options, list) or not 1 <= len(options) <= len(LETTERS):
        raise UserError(f"{row.where}: 'choices' must hold 1 to {len(LETTERS)} texts")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(options):
        raise UserError(f"{row.where}: 'answer' is {right!r:.40}, expected the place of a choice from 0")
    hint = row.data.get("hint") or ""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    text = "\n".join([*([f"Context: {hint}"] if hint else []), row.text("question"), *lines])
    text = text.replace("  ", " ").strip()  # as LLaVA's file was made
    image = f"{key}/{row.text('image')}" if row.data.get("image") else None
    return Question(f"{text}\n{LETTER}", LETTERS[right], image, tuple(map(str, options)))


def _question(row: Row) -> Question:
    turns = row.data.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2:
        raise UserError(f"{row.where}: 'conversations' must hold a question and its answer")
    human, right = (as_row(turn, row.where).text("value") for turn in turns)
    if right not in LETTERS:
        raise UserError(f"{row.where}: the right answer is {right!r}{choices(right, LETTERS)}")
    text = human.replace(IMAGE, "").strip()
    options = tuple(option for _, option in _OPTION.findall(text))
    return Question(f"{text}\n{LETTER}", right, row.text("image") if "image" in row.data else None, options)
