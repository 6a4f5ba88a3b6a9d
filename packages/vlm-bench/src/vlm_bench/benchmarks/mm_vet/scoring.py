"""MM-Vet: the judge's prompt, the grade in its reply, and the mean of grades.

The few-shot examples of the judge's prompt are part of the protocol and MM-Vet's own text, so they are read from the
user's copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

AGAIN = "\nPredict the correctness of the answer (digit): "
# the official script's temperatures: the plain question first, then with `AGAIN` at the end
ATTEMPTS = ((False, 0.0), (True, 0.0), (True, 0.5), (True, 1.0), (True, 1.5))


def judge_prompt(examples: str, question: str, truth: str, answer: str, *, again: bool = False) -> str:
    """The judge's prompt: MM-Vet's examples, then the question. `<AND>` and `<OR>` get a space on both sides."""
    spaced = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{examples}\n{' | '.join([question, spaced, answer, ''])}" + (AGAIN if again else "")


def parse(reply: str) -> float | None:
    """The grade: the text before the first space, as a number from 0 to 1; None for any other reply.

    The official script gives 0 after five such replies; here the answer stays without a grade.
    """
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def mean(values: Sequence[float]) -> float:
    """The mean; 0 for none."""
    return sum(values) / len(values) if values else 0.0


def spread(runs: Sequence[float]) -> float:
    """Standard deviation over runs, as the official script has it (divided by their number)."""
    return mean([(run - mean(runs)) ** 2 for run in runs]) ** 0.5


def by_run(grades: Mapping[str, Sequence[float]]) -> list[float]:
    """Each run's mean over questions; every question has as many grades as there are runs."""
    return [mean(run) for run in zip(*grades.values(), strict=True)]
