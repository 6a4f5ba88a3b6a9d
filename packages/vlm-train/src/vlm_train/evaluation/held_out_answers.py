"""Answers to a dataset's questions: when one is right, and accuracy over all of them and by category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_train.data.conversation.llava_schema import PLACEHOLDER

ALL = "all"
"""The name of the accuracy over all questions."""


@dataclass(frozen=True)
class Answer:
    """One row's last question, the answer given and the true one."""

    row: Mapping[str, Any]
    said: str
    truth: str

    @property
    def right(self) -> bool:
        return normal(self.said) == normal(self.truth)


def normal(text: str) -> str:
    """The text as answers are compared: without case, surrounding white space and a final full stop."""
    return text.strip().rstrip(".").strip().casefold()


def pairs(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every question and answer of a conversation, the question as text without image marks."""
    turns = [turn["value"] for turn in row["conversations"]]
    questions = [text.replace(PLACEHOLDER, "").strip() for text in turns[::2]]
    return list(zip(questions, turns[1::2], strict=True))


def question(row: Mapping[str, Any]) -> str:
    """The row's last question as text, without image marks."""
    return pairs(row)[-1][0]


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """The number of questions, and accuracy in percent over all and by category; without questions there is none."""
    right: dict[str, list[bool]] = defaultdict(list)
    for a in answers:
        right[ALL].append(a.right)
        if category := a.row.get("category"):
            right[f"category {ALL}" if category == ALL else category].append(a.right)
    accuracy = {name: 100 * sum(hits) / len(hits) for name, hits in right.items()}
    return {"questions": len(answers), "accuracy": accuracy}
