"""Plain accuracy: right answers among all."""

from __future__ import annotations

from collections.abc import Collection


def accuracy_row(hits: Collection[bool]) -> dict[str, float | int]:
    """A row of a report; the accuracy of no answers is 0."""
    correct = sum(hits)
    return {"n": len(hits), "correct": correct, "accuracy": correct / len(hits) if hits else 0.0}
