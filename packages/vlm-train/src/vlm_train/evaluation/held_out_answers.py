"""Scores answers to a dataset's questions: exact match after normalization, accuracy overall and by category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

from vlm_train.data.conversation.llava_schema import PLACEHOLDER

ALL = "all"
"""The name of the accuracy over all questions."""


@dataclass(frozen=True)
class Answer:
    """The model's answer to a row's last question, and the true answer."""

    row: Mapping[str, Any]
    text: str
    truth: str

    @property
    def right(self) -> bool:
        return normalized(self.text) == normalized(self.truth)


def normalized(text: str) -> str:
    """The text as answers are compared: case-folded, without surrounding white space and final full stops.

    A letter with an accent is the same whether it is written as one character or as two.
    """
    return normalize("NFC", text.strip().rstrip(".。").strip().casefold())


def pairs(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every (question, answer) of a conversation; questions without image placeholders."""
    turns = [turn["value"] for turn in row["conversations"]]
    questions = [text.replace(PLACEHOLDER, "").strip() for text in turns[::2]]
    return list(zip(questions, turns[1::2], strict=True))


def question(row: Mapping[str, Any]) -> str:
    """The row's last question, without image placeholders."""
    return pairs(row)[-1][0]


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """`questions`, their number, and `accuracy` in percent: overall and by category; empty without questions."""
    right: dict[str, list[bool]] = defaultdict(list)
    for a in answers:
        right[ALL].append(a.right)
        if category := a.row.get("category"):
            right[f"category {ALL}" if category == ALL else category].append(a.right)
    accuracy = {name: 100 * sum(hits) / len(hits) for name, hits in right.items()}
    return {"questions": len(answers), "accuracy": accuracy}
