"""POPE: yes/no questions about objects in an image, scored by the rule of its own evaluation script.

LLaVA's figure is the mean of the three splits' F1 (not accuracy, and not F1 over all questions pooled).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

NO_WORDS = frozenset({"No", "no", "not"})


def reads_as_no(text: str) -> bool:
    """The official reading: the text before the first period, without commas, split at single spaces.

    It is "no" if one of `No`, `no`, `not` is among the words and "yes" in every other case, so that "NO",
    "There isn't" and an empty answer all count as yes. `unclear` detects these.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not NO_WORDS.isdisjoint(words)


def first_yes_or_no(text: str) -> str:
    """A reading without the official rule's errors: the answer's first word of yes or no, else "other".

    "nope", "not" and words that end in "n't" are no; case and punctuation don't matter.
    """
    for word in re.findall(r"[\w']+", text.lower().replace("’", "'")):
        if word == "yes":
            return "yes"
        if word in ("no", "not", "nope") or word.endswith("n't"):
            return "no"
    return "other"


def unclear(text: str) -> bool:
    """Whether the official rule reads "yes" from a text that does not say yes. Scores do not depend on it."""
    return not reads_as_no(text) and "yes" not in re.findall(r"\w+", text.split(".")[0].lower())


@dataclass(frozen=True)
class SplitScore:
    """Counts with "yes" as the positive class, and the official figures, as fractions."""

    tp: int
    fp: int
    tn: int
    fn: int
    unclear: int = 0

    @property
    def total(self) -> int:
        return self.tp + self.fp + self.tn + self.fn

    @property
    def accuracy(self) -> float:
        return _ratio(self.tp + self.tn, self.total)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        # equals the official 2PR / (P + R), without rounding
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn) if self.tp else 0.0

    @property
    def yes_ratio(self) -> float:
        return _ratio(self.tp + self.fp, self.total)

    @property
    def undefined(self) -> tuple[str, ...]:
        """Figures where the official script divides by zero; they read 0.0 here and are to be flagged."""
        tests = {
            "precision": self.tp + self.fp == 0,
            "recall": self.tp + self.fn == 0,
            "f1": self.tp == 0,
        }
        return tuple(name for name, zero in tests.items() if zero)


def _ratio(part: int, total: int) -> float:
    return part / total if total else 0.0


def mean_figures(splits: Mapping[str, Mapping[str, float | int]]) -> dict[str, float | int]:
    """The mean of each figure over the splits, and the number of all answers."""
    rows = list(splits.values())
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "n"}
    return {"n": sum(int(row["n"]) for row in rows), **means}


def score_split(pairs: Iterable[tuple[str, bool]], *, normalized: bool = False) -> SplitScore:
    """Score (answer text, whether "yes" is right) pairs of one split.

    `normalized` reads answers by `first_yes_or_no`; an answer that is neither yes nor no is then wrong.
    """
    counts = {(predicted, truth): 0 for predicted in (True, False) for truth in (True, False)}
    doubtful = 0
    for text, truth in pairs:
        predicted, doubt = (_normalized if normalized else _official)(text, truth)
        counts[predicted, truth] += 1
        doubtful += doubt
    return SplitScore(
        tp=counts[True, True],
        fp=counts[True, False],
        tn=counts[False, False],
        fn=counts[False, True],
        unclear=doubtful,
    )


@lru_cache(maxsize=4096)  # most answers are one of a few texts
def _official(text: str, _: bool) -> tuple[bool, bool]:
    """(the answer is read as yes, the reading is unclear)"""
    return not reads_as_no(text), unclear(text)


@lru_cache(maxsize=4096)
def _normalized(text: str, truth: bool) -> tuple[bool, bool]:
    word = first_yes_or_no(text)
    return (not truth if word == "other" else word == "yes"), word == "other"
