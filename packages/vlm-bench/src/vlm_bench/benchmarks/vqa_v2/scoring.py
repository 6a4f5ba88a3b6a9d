"""VQA-v2: the official soft accuracy, which normalises texts only where the references differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vlm_bench.scoring.vqa import counts_as, leave_one_out, normalise, one_line


def soft_accuracy(answer: str, references: Sequence[str], *, always_normalise: bool = False) -> float:
    """VQA-v2's credit of an answer.

    The official rule normalises only where the references differ: with ten times "Yes", "yes" is wrong.
    `always_normalise` corrects that.
    """
    text, truths = one_line(answer), [one_line(text) for text in references]
    if always_normalise or len(set(truths)) > 1:
        text, truths = normalise(text), [normalise(truth) for truth in truths]
    return leave_one_out(truths.count(text), len(truths))


class References:
    """A question's references, normalised once; `credit` equals `soft_accuracy`.

    `normal` is `normalise`, or a cached one, since questions share most of their references.
    """

    __slots__ = ("counts", "normal", "texts")

    def __init__(
        self,
        texts: Sequence[str],
        normal: Callable[[str], str] = normalise,
        *,
        always_normalise: bool = False,
    ) -> None:
        self.texts, self.normal = texts, None
        self.counts = counts_as(one_line, Counter(texts))
        if always_normalise or len(self.counts) > 1:
            self.normal, self.counts = normal, counts_as(normal, self.counts)

    def credit(self, answer: str) -> float:
        """`soft_accuracy` of an answer."""
        text = one_line(answer)
        return leave_one_out(self.counts.get(self.normal(text) if self.normal else text, 0), len(self.texts))
