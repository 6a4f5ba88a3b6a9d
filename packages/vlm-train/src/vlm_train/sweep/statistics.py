"""Intervals of means and paired t-tests of a few runs, in double precision and without scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
"""Confidence level of all intervals."""
ROUNDING = 1e-12
"""Share of the values by which equal differences may differ: 70.1 − 69.8 and 71.1 − 70.8 do, in double precision."""


@dataclass(frozen=True)
class PairedTest:
    """Two-sided paired t-test of a − b over n common seeds: mean difference, half the width of its interval, p.

    Differences that are all equal have no spread to compare their mean with: p is 1 if they are 0, else None.
    """

    n: int
    difference: float
    half_width: float
    p: float | None


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the t interval of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    return t_quantile((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def paired_test(a: Mapping[int, float], b: Mapping[int, float]) -> PairedTest | None:
    """The test over the seeds that both have; None for fewer than two."""
    differences = [a[seed] - b[seed] for seed in a if seed in b]
    width = half_width(differences)
    if width is None:
        return None
    n, difference = len(differences), fmean(differences)
    error = stdev(differences) / math.sqrt(n)
    rounding = ROUNDING * max(abs(value) for seed in a if seed in b for value in (a[seed], b[seed]))
    if error <= rounding:
        return PairedTest(n, difference, 0.0, None if abs(difference) > rounding else 1.0)
    return PairedTest(n, difference, width, two_sided_p(difference / error, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's method, in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def two_sided_p(t: float, degrees: int) -> float:
    """P(|T| ≥ |t|) of Student's t distribution."""
    return incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def t_quantile(probability: float, degrees: int) -> float:
    """The t with P(T ≤ t) = probability, for a probability from 0.5 below 1; by bisection."""
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees) > 2 * (1 - probability):
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        above = two_sided_p(middle, degrees) > 2 * (1 - probability)
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 0.0
    for i in range(200, 0, -1):  # from the innermost term
        m = i // 2
        even = m * (b - m) / ((a + i - 1) * (a + i))
        odd = -(a + m) * (a + b + m) / ((a + i - 1) * (a + i))
        fraction = (odd if i % 2 else even) * x / (1 + fraction)
    return math.exp(log_front) / (a * (1 + fraction))
