"""The prompt formats of LLaVA's scripts for TextVQA, and the question in each."""

from __future__ import annotations

from dataclasses import dataclass

TOKENS = "Reference OCR token:"
_OLD_TOKENS, _BEFORE, _AFTER = "OCR tokens: ", "Question: ", " Short answer:"


@dataclass(frozen=True)
class Prompt:
    """A prompt's question, and whether the prompt has OCR tokens."""

    question: str
    tokens: bool


def read_prompt(text: str) -> Prompt | None:
    """The question of a prompt in one of these forms, None for others:

    - question and instruction, a line each,
    - the same with a line `Reference OCR token: …` between them (`llava_textvqa_val_v051_ocr.jsonl`) or before them,
    - `OCR tokens: … Question: … Short answer:`, or that without the tokens.
    """
    if place := _oldest(text):
        return Prompt(text[place[0] + len(_BEFORE) : place[1]], tokens=text.startswith(_OLD_TOKENS))
    lines = text.split("\n")
    others = [line for line in lines if not line.startswith(TOKENS)]
    if len(others) == 2 and len(lines) - len(others) <= 1:
        return Prompt(others[0], tokens=len(lines) == 3)
    return None


def _oldest(text: str) -> tuple[int, int] | None:
    """Positions of "Question: " and " Short answer:" in a prompt of the last form, None for others."""
    start = text.find(_BEFORE, len(_OLD_TOKENS)) if text.startswith(_OLD_TOKENS) else 0
    if start < 0 or not text.startswith(_BEFORE, start):
        return None
    end = text.find(_AFTER, start + len(_BEFORE))
    return None if end < 0 else (start, end)


def without_tokens(text: str) -> str:
    """The same prompt without the OCR tokens."""
    if place := _oldest(text):
        return text[place[0] :]
    return "\n".join(line for line in text.split("\n") if not line.startswith(TOKENS))
