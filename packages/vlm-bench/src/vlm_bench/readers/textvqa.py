"""The prompt formats of LLaVA's scripts for TextVQA, and the question in each."""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKENS = "Reference OCR token:"
_OLDEST = re.compile(
    r"(?P<tokens>OCR tokens: .*?)?(?P<asked>Question: (?P<question>.*?) Short answer:.*)", re.DOTALL
)


@dataclass(frozen=True)
class Prompt:
    """A prompt's question, and whether it names what an OCR system saw."""

    question: str
    tokens: bool


def read_prompt(text: str) -> Prompt | None:
    """What a prompt asks, None for one that is of none of these forms:

    - question and instruction, a line each,
    - the same with a line `Reference OCR token: …` between them (`llava_textvqa_val_v051_ocr.jsonl`) or before them,
    - `OCR tokens: … Question: … Short answer:`, or that without the tokens.
    """
    if found := _OLDEST.match(text):
        return Prompt(found["question"], tokens=found["tokens"] is not None)
    lines = text.split("\n")
    others = [line for line in lines if not line.startswith(TOKENS)]
    if len(others) == 2 and len(lines) - len(others) <= 1:
        return Prompt(others[0], tokens=len(lines) == 3)
    return None


def without_tokens(text: str) -> str:
    """The same prompt without the OCR tokens."""
    if found := _OLDEST.match(text):
        return found["asked"]
    return "\n".join(line for line in text.split("\n") if not line.startswith(TOKENS))
