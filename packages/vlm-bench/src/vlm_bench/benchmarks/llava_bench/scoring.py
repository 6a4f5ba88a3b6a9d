"""LLaVA-Bench: the model's mean score relative to the reference answers' mean score."""

from __future__ import annotations

from collections.abc import Sequence


def relative_score(scores: Sequence[tuple[float, float]]) -> float:
    """mean(model) / mean(reference) of (reference, model) pairs; 0 for none or for references of 0."""
    reference = sum(pair[0] for pair in scores)
    return sum(pair[1] for pair in scores) / reference if reference else 0.0
