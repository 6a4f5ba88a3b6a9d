"""MMBench: the option that an answer chooses, and CircularEval.

The rule is VLMEvalKit's of March 2024 without a judge (`exact_matching`): an unreadable answer is wrong.
Later versions differ on long answers; on an answer of one letter all agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

PASS = 1_000_000
"""Row `index` asks question `index % PASS`; its options are rotated `index // PASS` times."""
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
FAILED_CALL = "Failed to obtain answer via API"
How = Literal["letter", "text", "refused", "unread"]


def parse(answer: str, options: Mapping[str, str]) -> tuple[str | None, How]:
    """The chosen letter and how it was read; `options` are the row's texts by letter.

    First a letter that is a word of the answer, if no other option's letter is one ("A" may be an article: "A
    dog" reads A); else the only option whose text the answer holds, whatever the case. "Z" and the known refusals
    choose no option.
    """
    if FAILED_CALL not in answer:
        if any(text in answer for text in _REFUSALS):
            return None, "refused"
        words = answer.translate(_SEPARATORS).split()
        letters = [letter for letter in options if letter in words]
        if len(letters) == 1:
            return letters[0], "letter"
        if not letters and "Z" in words:
            return None, "refused"
    matches = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return (matches[0], "text") if len(matches) == 1 else (None, "unread")


def circular(hits: Mapping[int, bool]) -> dict[int, bool]:
    """Whether each question is right, which needs all of its rotations to be right."""
    questions: dict[int, bool] = {}
    for index, hit in hits.items():
        questions[index % PASS] = questions.get(index % PASS, True) and hit
    return questions
