"""TextVQA: M4C's soft accuracy; answer and references are converted, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vlm_bench.scoring.vqa import convert, counts_as, leave_one_out


def converted_accuracy(answer: str, references: Sequence[str]) -> float:
    """TextVQA's credit of an answer: both sides converted, always."""
    converted = convert(answer)
    return leave_one_out([convert(text) for text in references].count(converted), len(references))


class ConvertedReferences:
    """A question's references, converted once; `credit` equals `converted_accuracy`.

    `converted` is `convert`, or a cached one, since questions share most of their references.
    """

    __slots__ = ("counts", "texts")

    def __init__(self, texts: Sequence[str], converted: Callable[[str], str] = convert) -> None:
        self.texts, self.counts = texts, counts_as(converted, Counter(texts))

    def credit(self, answer: str) -> float:
        """`converted_accuracy` of an answer."""
        return leave_one_out(self.counts.get(convert(answer), 0), len(self.texts))
