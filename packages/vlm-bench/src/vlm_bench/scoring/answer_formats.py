"""Answers as LLaVA converts them before submission, or as they are; benchmarks of the VQA family report both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from vlm_bench.scoring.vqa import convert

AnswerFormat = Literal["llava", "raw"]
Credits = Mapping[str, Mapping[str, float]]
"""Credits by answer format and question id."""


def submitted_text(answer: str, answer_format: AnswerFormat) -> str:
    """What the official evaluation gets for an answer."""
    return convert(answer) if answer_format == "llava" else answer


def credits_by_format(answers: Mapping[str, str], credit: Callable[[str, str], float]) -> Credits:
    """The credits of all answers in both formats; `credit` takes a question's id and the submitted text."""
    converted = {text: convert(text) for text in set(answers.values())}
    return {
        "llava": {key: credit(key, converted[text]) for key, text in answers.items()},
        "raw": {key: credit(key, text) for key, text in answers.items()},
    }


def accuracies(credits: Credits, keys: Collection[str]) -> dict[str, float | int]:
    """A row of a report: the number of questions `keys` and their accuracy in both formats."""
    figures: dict[str, float | int] = {"n": len(keys)}
    for name, credit in credits.items():
        figures[f"accuracy ({name})"] = sum(credit[key] for key in keys) / (len(keys) or 1)
    return figures
