"""Paired comparison of two scores on the same units, and the interval of one score, by bootstrap.

Units are drawn with replacement, with both scores' parts of a unit together, and the headline is recomputed. Units of
different parts (MME's tasks) are drawn separately, so that every draw has as many of each as the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlm_core.benchmark import Headline

DRAWS = 10_000
REPORT_DRAWS = 2_000
"""Draws for the intervals of every report: a bound varies by 1.5 % of the interval's width, and scoring stays fast."""
Units = Mapping[str, Mapping[str, tuple[float, float]]]
"""Each unit's parts: (numerator, denominator) by name, as in `Headline.units`."""
Frozen = tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]
"""A unit's parts as a key: names and ratios."""
Pair = tuple[Frozen, Frozen]
"""A unit in the first and the second report."""
Parts = tuple[tuple[str, float, float], ...]
Pattern = tuple[Parts, Parts]
"""The ratios of the first and the second model on a unit."""


@dataclass(frozen=True)
class Difference:
    """Second minus first, with the bounds of the 95 % interval; `better` counts units that the second gains."""

    metric: str
    points: bool
    first: float
    second: float
    low: float
    high: float
    units: int
    better: int
    worse: int
    left_out: int = 0
    """Units that are not in both with the same questions; only where a partial comparison is allowed."""
    p: float | None = None
    """Two-sided p of McNemar's exact test, if each unit is right or wrong."""

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def difference(
    left: Headline, right: Headline, *, left_out: int = 0, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """`right` minus `left`, two headlines of one kind with the same units."""
    counts = _pairs(left.units, right.units)
    low, high = _interval(counts, right.combine, draws, seed)
    gains = [(_sum(second) - _sum(first), count) for (first, second), count in counts.items()]
    better = sum(count for gain, count in gains if gain > 0)
    worse = sum(count for gain, count in gains if gain < 0)
    binary = all(ratios in (((0, 1),), ((1, 1),)) for pair in counts for _, ratios in pair)
    return Difference(
        metric=right.name,
        points=right.points,
        first=left.value,
        second=right.value,
        low=low,
        high=high,
        units=len(left.units),
        better=better,
        worse=worse,
        left_out=left_out,
        p=mcnemar(better, worse) if binary else None,
    )


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of McNemar's exact test: the probability of a split at least as uneven as this one by fair coins."""
    discordant, smaller = better + worse, min(better, worse)
    count = total = 1
    for i in range(smaller):
        count = count * (discordant - i) // (i + 1)
        total += count
    return min(1.0, 2 * total / 2**discordant)


def _sum(unit: Frozen) -> float:
    """The sum of a unit's ratios."""
    return sum(numerator / denominator for numerator, denominator in unit[1] if denominator)


def score_interval(headline: Headline) -> tuple[float, float]:
    """The 95 % interval of a score: that of its difference from 0."""
    counts = Counter(map(_frozen, headline.units.values()))
    from_zero = {
        ((names, tuple((0.0, over) for _, over in ratios)), (names, ratios)): count
        for (names, ratios), count in counts.items()
    }
    return _interval(from_zero, headline.combine, REPORT_DRAWS, 0)


def interval(
    left: Units, right: Units, combine: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the difference.

    Units with the same figures in both reports are one pattern, and a draw is a multinomial over patterns: the
    same as drawing units one by one, at a cost that does not grow with their number.
    """
    return _interval(_pairs(left, right), combine, draws, seed)


def _interval(counts: Mapping[Pair, int], combine: str, draws: int, seed: int) -> tuple[float, float]:
    import numpy as np

    names = sorted({name for pair in counts for unit in pair for name in unit[0]})
    generator = np.random.default_rng(seed)
    totals = np.zeros((draws, 2, len(names), 2))
    for patterns in _strata(counts).values():
        sizes = np.array(list(patterns.values()))
        drawn = generator.multinomial(sizes.sum(), sizes / sizes.sum(), size=draws)
        totals += np.tensordot(drawn, np.array([_table(p, names) for p in patterns]), 1)
    over = totals[..., 1]
    ratios = np.divide(totals[..., 0], over, out=np.zeros_like(over), where=over != 0)
    figures = ratios.mean(-1) if combine == "mean" else ratios.sum(-1)
    low, high = np.quantile(figures[:, 1] - figures[:, 0], [0.025, 0.975])
    return float(low), float(high)


def _pairs(left: Units, right: Units) -> Counter[Pair]:
    """The numbers of units with the same figures in both reports."""
    return Counter((_frozen(left[key]), _frozen(right[key])) for key in left)


def _strata(counts: Mapping[Pair, int]) -> dict[tuple[str, ...], Counter[Pattern]]:
    """The numbers of units with a pattern, by the names of their parts."""
    strata: dict[tuple[str, ...], Counter[Pattern]] = {}
    for sides, count in counts.items():
        first, second = map(_parts, sides)
        names = tuple(sorted({name for name, _, _ in (*first, *second)}))
        strata.setdefault(names, Counter())[first, second] += count
    return strata


def _frozen(parts: Mapping[str, Sequence[float]]) -> Frozen:
    """Names and ratios in the given order: cheap, since there are as many as questions."""
    return tuple(parts), tuple(map(tuple, parts.values()))


def _parts(frozen: Frozen) -> Parts:
    named = zip(*frozen, strict=True)
    return tuple((name, float(a), float(b)) for name, (a, b) in sorted(named))


def _table(pattern: Pattern, names: list[str]) -> list[list[list[float]]]:
    """A pattern as a table of shape (2 models, parts, 2): numerator and denominator."""
    table = [[[0.0, 0.0] for _ in names] for _ in pattern]
    for model, parts in enumerate(pattern):
        for name, numerator, denominator in parts:
            table[model][names.index(name)] = [numerator, denominator]
    return table


def lines(difference: Difference) -> list[str]:
    """The comparison as text."""
    scale = 1 if difference.points else 100
    unit = " points" if difference.points else ""
    first, second, value, low, high = (
        scale * x
        for x in (difference.first, difference.second, difference.value, difference.low, difference.high)
    )
    return [
        f"{difference.metric}  {first:.2f} -> {second:.2f}",
        f"difference {value:+.2f}{unit}, 95 % interval [{low:+.2f}, {high:+.2f}] (paired bootstrap)",
        f"{difference.units} units: {difference.better} better, {difference.worse} worse, "
        f"{difference.units - difference.better - difference.worse} equal"
        + (f"; {difference.left_out} not the same in both, left out" if difference.left_out else "")
        + ("" if difference.p is None else f"; McNemar's exact test p = {difference.p:.2g}"),
        "the interval excludes 0"
        if difference.clear
        else "the interval contains 0: the difference may be chance",
    ]
