"""Turns and tables.

All contestants of a comparison run once in each round, one after the other, so that a busy machine slows them alike;
one call of each warms up before the first round, and medians over the rounds are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

Run = Callable[[], object]
Case = tuple[str, dict[str, Run]]
Clock = Callable[[Run], float]


class Seconds(NamedTuple):
    """Of one call: the median and the least over all rounds."""

    median: float
    least: float


def timed(run: Run) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def turns(
    runs: dict[str, Run], rounds: int, warm_up: bool = True, clock: Clock = timed
) -> dict[str, Seconds]:
    """Every contestant once a round, after one call of each to warm up."""
    for run in runs.values() if warm_up else ():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(clock(run))
    return {name: Seconds(statistics.median(column), min(column)) for name, column in times.items()}


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A markdown table under a bold title; each row is printed as soon as it is there."""
    print(f"\n**{title}**\n")
    for row in (columns, ["-"] * len(columns)):
        print(f"| {' | '.join(row)} |", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def ratio(value: float) -> str:
    """92×, 3.4×, 1.07×."""
    return f"{value:.{0 if value >= 10 else 1 if value >= 2 else 2}f}×"


def number(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(time: Seconds) -> str:
    """The median, and the least in brackets."""
    return f"{number(time.median * 1e3)} ({number(time.least * 1e3)})"


def compare(
    title: str,
    contestants: Sequence[str],
    ratios: Sequence[tuple[str, str]],
    cases: Iterable[Case],
    rounds: int,
    rates: Sequence[str] = (),
    warm_up: bool = True,
    clock: Clock = timed,
) -> None:
    """One row a case: each ratio of two contestants' medians, `rates` in calls a second, all milliseconds.

    A case may leave contestants out; its cells stay empty.
    """

    def row(case: str, times: dict[str, Seconds]) -> list[str]:
        quotients = [
            ratio(times[a].median / times[b].median) if a in times and b in times else "" for a, b in ratios
        ]
        speeds = [number(1 / times[name].median) if name in times else "" for name in rates]
        return [
            case,
            *quotients,
            *speeds,
            *(milliseconds(times[name]) if name in times else "" for name in contestants),
        ]

    columns = [
        "",
        *(f"{a} / {b}" for a, b in ratios),
        *(f"{name}, tokens/s" for name in rates),
        *(f"{name}, ms" for name in contestants),
    ]
    title = f"{title} (median and least of {rounds} interleaved rounds)"
    table(title, columns, (row(case, turns(runs, rounds, warm_up, clock)) for case, runs in cases))
