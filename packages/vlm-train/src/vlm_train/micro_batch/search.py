"""The largest micro-batch that fits, from few trials: peak memory is affine in the number of samples.

No size is tried that is expected not to fit: a process that runs out of memory inside a collective leaves the others
waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

GROWTH = 4
"""A trial has at most this many times the samples of the largest one before it."""


class Trial(NamedTuple):
    """Bytes of a step with `size` samples a micro-batch: at its peak, and at its end with all gradients."""

    size: int
    peak: int
    resident: int


class Found(NamedTuple):
    """The chosen size, None if not even one sample fits, and all trials."""

    size: int | None
    trials: list[Trial]


def divisors(share: int) -> list[int]:
    """The divisors of a process's share of a batch, ascending."""
    small = [d for d in range(1, int(share**0.5) + 1) if share % d == 0]
    return sorted({*small, *(share // d for d in small)})


def predicted(trials: Sequence[Trial], size: int) -> float:
    """The peak of `size` samples on a line through two trials: those around it, or else the two largest below.

    From one trial an upper bound: whatever its step frees again is counted as its samples'.
    """
    below = sorted(trial for trial in trials if trial.size < size)
    above = sorted(trial for trial in trials if trial.size >= size)
    last = below[-1]
    if len(below) == 1 and not above:
        return last.peak + (last.peak - last.resident) * (size - last.size) / last.size
    low, high = (last, above[0]) if above else below[-2:]
    return high.peak + (high.peak - low.peak) * (size - high.size) / (high.size - low.size)


def search(sizes: Sequence[int], limit: int, attempt: Callable[[int], Trial | None]) -> Found:
    """The largest of `sizes` (ascending, from 1) whose peak is at most `limit` bytes.

    `attempt` makes a trial; None means out of memory. A size of more than `GROWTH` times the largest tried so far is
    reached by trials between, of sizes that need not be among `sizes`.
    """
    first = attempt(1)
    if first is None or first.peak > limit:
        return Found(None, [first] if first else [])
    trials, largest, ceiling = [first], 1, sizes[-1] + 1
    while targets := [s for s in sizes if largest < s < ceiling and predicted(trials, s) <= limit]:
        size = min(targets[-1], GROWTH * largest)
        trial = attempt(size)
        trials += [trial] if trial else []
        if trial is None or trial.peak > limit:
            ceiling = size
            continue
        largest = size
    return Found(max(s for s in sizes if s <= largest), trials)
