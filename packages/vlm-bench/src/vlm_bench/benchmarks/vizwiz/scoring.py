"""VizWiz: the soft accuracy of its own evaluation, and how well unanswerable questions are detected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from vlm_bench.scoring.vqa import counts_as, leave_one_out, normalise, one_line

UNANSWERABLE = "unanswerable"


def reference_accuracy(answer: str, references: Sequence[str]) -> float:
    """VizWiz's credit of an answer: the answer is normalised as in VQA-v2, the references are compared as they are.

    So no answer matches a reference with a capital letter, an article or punctuation.
    """
    return leave_one_out(list(references).count(normalise(one_line(answer))), len(references))


class CountedReferences:
    """A question's references, counted once; `credit` equals `reference_accuracy`.

    `always_normalise` normalises the references, too.
    """

    __slots__ = ("counts", "normal", "texts")

    def __init__(
        self,
        texts: Sequence[str],
        normal: Callable[[str], str] = normalise,
        *,
        always_normalise: bool = False,
    ) -> None:
        self.texts, self.normal = texts, normal
        counts = Counter(texts)
        self.counts = (
            counts_as(lambda text: normal(one_line(text)), counts) if always_normalise else dict(counts)
        )

    def credit(self, answer: str) -> float:
        """The credit of an answer."""
        return leave_one_out(self.counts.get(self.normal(one_line(answer)), 0), len(self.texts))


def says_unanswerable(answer: str) -> bool:
    """Whether an answer says that the question cannot be answered."""
    return normalise(one_line(answer)) == UNANSWERABLE


def detection(predicted: Collection[bool], truth: Collection[bool]) -> dict[str, float]:
    """F1 and average precision of binary predictions, with "unanswerable" as the positive class.

    Average precision has two thresholds: the predicted positives, and all questions.
    """
    hits = sum(p and t for p, t in zip(predicted, truth, strict=True))
    positives, wanted = sum(predicted), sum(truth)
    precision, recall = hits / (positives or 1), hits / (wanted or 1)
    share = wanted / (len(truth) or 1)
    return {
        "F1": 2 * hits / ((positives + wanted) or 1),
        "average precision": recall * precision + (1 - recall) * share if wanted else 0.0,
    }
