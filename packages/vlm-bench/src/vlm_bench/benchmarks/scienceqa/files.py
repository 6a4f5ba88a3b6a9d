"""ScienceQA: `llava_test_CQM-A.json`, questions as conversations, or the official `problems.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.benchmarks.scienceqa.scoring import LETTERS
from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import json_object, json_rows, read_json
from vlm_bench.files.json_object import Row
from vlm_bench.files.questions import LETTER
from vlm_core.errors import UserError, choices
from vlm_core.placeholders import IMAGE_PLACEHOLDER

IMAGE = IMAGE_PLACEHOLDER
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
    """The test set by id, in LLaVA's form: context, question and each option on a line of its own."""
    problems, chosen = json_object(path), read_json(splits)
    keys = chosen.get("test") if isinstance(chosen, dict) else None
    if not isinstance(keys, list) or not keys:
        raise UserError(f"{splits}: expected a JSON object with a list 'test' of ids")
    if len(twice := {str(key) for key in keys}) != len(keys):
        raise UserError(f"{splits}: {len(keys) - len(twice)} ids of 'test' appear twice")
    if absent := [key for key in keys if str(key) not in problems]:
        raise UserError(
            f"{path}: {len(absent)} of {len(keys)} test questions are missing, first id {absent[0]}"
        )
    return {str(key): _problem(str(key), problems[str(key)]) for key in keys}


def _problem(key: str, row: Row) -> Question:
    options, right = row.items("choices", str, f"1 to {len(LETTERS)} texts"), row.data.get("answer")
    if not 1 <= len(options) <= len(LETTERS):
        raise UserError(f"{row.where}: 'choices' must hold 1 to {len(LETTERS)} texts")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(options):
        row.wrong("answer", "the place of a choice from 0")
    hint = row.text("hint")
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    text = "\n".join([*([f"Context: {hint}"] if hint else []), row.text("question"), *lines])
    text = text.replace("  ", " ").strip()  # as LLaVA's file was made
    if "image" not in row.data:
        row.wrong("image", "a file's name, or null")
    image = None if row.data["image"] in (None, "") else f"{key}/{row.text('image')}"
    return Question(f"{text}\n{LETTER}", LETTERS[right], image, tuple(options))


def _question(row: Row) -> Question:
    turns = row.items("conversations", dict, "a question and its answer")
    if len(turns) != 2:
        raise UserError(f"{row.where}: 'conversations' must hold a question and its answer")
    human, right = (
        _turn_text(turn, who, row.where) for turn, who in zip(turns, ("human", "gpt"), strict=True)
    )
    text = human.replace(IMAGE, "").strip()
    options = dict(_OPTION.findall(text))
    if right not in LETTERS:
        raise UserError(f"{row.where}: the right answer is {right!r}{choices(right, LETTERS)}")
    if options and right not in options:
        raise UserError(
            f"{row.where}: the right answer is {right!r}, but its options are {', '.join(options)}"
        )
    image = row.named("image") if row.optional("image") else None
    if image is None and IMAGE in human:
        raise UserError(f"{row.where}: the question has {IMAGE}, but 'image' is missing")
    return Question(f"{text}\n{LETTER}", right, image, tuple(options.values()))


def _turn_text(turn: dict[str, Any], who: str, where: str) -> str:
    row = Row(f"{where}: conversations", turn)
    row.one_of("from", (who,))
    return row.text("value")
