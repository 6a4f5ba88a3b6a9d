"""Matching answers with questions by id. Line order never matters, and nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vlm_bench.readers.answers import Answer
from vlm_core.errors import UserError


def check_answers(
    prompts: Mapping[str, str], answers: Mapping[str, Answer], allow_partial: bool
) -> list[str]:
    """The ids to score, in the questions' order.

    Refuses answers without a question and answers whose logged prompt is another question's, whatever
    `allow_partial` says; refuses missing answers unless it is set.
    """
    alien = [key for key in answers if key not in prompts]
    if alien:
        raise UserError(f"{_count(alien, 'answer')} to no question of this file, first id {alien[0]}")
    other = [key for key, answer in answers.items() if _differs(answer.prompt, prompts[key])]
    if other:
        raise UserError(
            f"{_count(other, 'answer')} logged with another prompt than the question of that id, first id "
            f"{other[0]}: {answers[other[0]].prompt!r:.60}; is this another revision of the questions?"
        )
    scored = [key for key in prompts if key in answers]
    missing = [key for key in prompts if key not in answers]
    if not scored or (missing and not allow_partial):
        raise UserError(
            f"{_count(missing, 'question')} of {len(prompts)} without an answer, first id {missing[0]}"
            + ("; --allow-partial scores the others" if scored else "")
        )
    return scored


def _count(items: Collection[str], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _differs(logged: str | None, prompt: str) -> bool:
    """Scripts log the prompt with or without the image token and with or without an answer instruction."""
    if logged is None:
        return False
    logged, prompt = (text.replace("<image>", "").strip() for text in (logged, prompt))
    return logged != prompt and not (logged.startswith(f"{prompt}\n") or prompt.startswith(f"{logged}\n"))
