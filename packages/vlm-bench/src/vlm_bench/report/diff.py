"""Compares two reports on the same questions: the difference, and its confidence interval.

The interval is a paired bootstrap: units are drawn with replacement, with both models' answers to a unit together, and
the headline is recomputed. Units of different parts (MME's tasks) are drawn separately, so that every draw has as many
of each as the data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.report.collect import Results
from vlm_bench.report.saved_reports import NoReportError, read_report
from vlm_core.benchmark import Headline
from vlm_core.errors import UserError

DRAWS = 10_000
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
    """Units that are not in both reports with the same questions; only where a partial comparison is allowed."""

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def compare(first: Path, second: Path, *, allow_partial: bool = False, seed: int = 0) -> Difference:
    """Compare two saved reports.

    Raises `UserError` for different protocols, for answers to other images, and for units that are not in both
    reports with the same questions; `allow_partial` leaves such units out.
    """
    a, b = _report(first), _report(second)
    if a["protocol"] != b["protocol"]:
        raise UserError(f"different protocols can't be compared: {a['protocol']!r} and {b['protocol']!r}")
    _same_measure(a, b)
    _same_images(a, b)
    alone = a["units"].keys() ^ b["units"].keys()
    both = sorted(a["units"].keys() & b["units"].keys())
    other = [key for key in both if a["content"][key] != b["content"][key]]
    common = [key for key in both if a["content"][key] == b["content"][key]]
    if not common or ((alone or other) and not allow_partial):
        raise UserError(*_unequal(a, b, other, len(common)))
    left, right = ({key: r["units"][key] for key in common} for r in (a, b))
    return _difference(a, left, right, seed, len(alone) + len(other))


def _report(path: Path) -> dict[str, Any]:
    try:
        report = read_report(path)
    except NoReportError as error:
        raise UserError(f"{error}; `vlm-bench score … --save {path.name}` writes one") from None
    if unknown := [key for key in report["units"] if key not in report.get("content", {})]:
        raise UserError(
            f"{path}: {len(unknown)} of {len(report['units'])} units have no digest of their questions, "
            f"first {unknown[0]}; a report of an older version must be scored again"
        )
    return report


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any], changed: Sequence[str], common: int) -> list[str]:
    """The units that are not in both reports, or that have different questions."""
    alone = [sorted(one["units"].keys() - other["units"].keys()) for one, other in ((a, b), (b, a))]
    parts = {
        "only in the first": alone[0],
        "only in the second": alone[1],
        "in both with other questions, images or right answers": changed,
    }
    return [
        f"{sum(map(len, alone))} units are in one report only, {common} in both"
        + ("; --allow-partial compares those" if common else ""),
        *(f"  {what}: {len(keys)}, first {keys[0]}" for what, keys in parts.items() if keys),
    ]


def _same_measure(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    for key in ("benchmark", "metric", "unit", "combine"):
        if a[key] != b[key]:
            raise UserError(f"one protocol, but two of {key!r}: {a[key]!r} and {b[key]!r}; score again")


def _same_images(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Compare image digests where both reports have them; the questions hold the images' names only."""
    digests = [
        {name: value for name, value in r["settings"].items() if "image" in name and "sha256" in name}
        for r in (a, b)
    ]
    if other := [name for name in digests[0] if digests[1].get(name, digests[0][name]) != digests[0][name]]:
        raise UserError(f"the models were asked about other images: {', '.join(other)} differ")


@dataclass(frozen=True)
class Compared:
    """Two folders: differences by protocol, and the protocols that only one of them has."""

    differences: Mapping[str, Difference]
    alone: Sequence[str]


def compare_folders(first: Results, second: Results, *, allow_partial: bool = False) -> Compared:
    """Compare the reports of each common protocol; raises `UserError` for a folder with two reports of one."""
    left, right = _by_protocol(first), _by_protocol(second)
    common = [protocol for protocol in left if protocol in right]
    if not common:
        raise UserError(
            f"no protocol is in both: {first.folder} has {', '.join(left) or 'none'}; "
            f"{second.folder} has {', '.join(right) or 'none'}"
        )
    return Compared(
        {p: compare(left[p], right[p], allow_partial=allow_partial) for p in common},
        sorted(left.keys() ^ right.keys()),
    )


def _by_protocol(results: Results) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for entry in results.entries:
        if not entry.scored:
            continue
        if (name := entry.data["protocol"]) in paths:
            raise UserError(
                f"{results.folder}: {paths[name].name} and {entry.file.name} are both of {name!r}; name two files"
            )
        paths[name] = entry.file
    return paths


def _difference(about: Mapping[str, Any], left: Any, right: Any, seed: int, left_out: int) -> Difference:
    first, second = (
        Headline(about["metric"], units, about["combine"], about["unit"] == "points").value
        for units in (left, right)
    )
    low, high = interval(left, right, about["combine"], seed=seed)
    gains = [_sum(right[key]) - _sum(left[key]) for key in left]
    return Difference(
        metric=about["metric"],
        points=about["unit"] == "points",
        first=first,
        second=second,
        low=low,
        high=high,
        units=len(left),
        better=sum(gain > 0 for gain in gains),
        worse=sum(gain < 0 for gain in gains),
        left_out=left_out,
    )


def _sum(parts: Mapping[str, tuple[float, float]]) -> float:
    """The sum of a unit's ratios."""
    return sum(numerator / denominator for numerator, denominator in parts.values() if denominator)


def interval(
    left: Any, right: Any, combine: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the difference.

    Units with the same figures in both reports are one pattern, and a draw is a multinomial over patterns: the
    same as drawing units one by one, at a cost that does not grow with their number.
    """
    import numpy as np

    names = sorted({name for units in (left, right) for parts in units.values() for name in parts})
    generator = np.random.default_rng(seed)
    totals = np.zeros((draws, 2, len(names), 2))
    for patterns in _strata(left, right).values():
        counts = np.array(list(patterns.values()))
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), size=draws)
        totals += np.tensordot(drawn, np.array([_table(p, names) for p in patterns]), 1)
    over = totals[..., 1]
    ratios = np.divide(totals[..., 0], over, out=np.zeros_like(over), where=over != 0)
    figures = ratios.mean(-1) if combine == "mean" else ratios.sum(-1)
    low, high = np.quantile(figures[:, 1] - figures[:, 0], [0.025, 0.975])
    return float(low), float(high)


def _strata(left: Any, right: Any) -> dict[tuple[str, ...], Counter[Pattern]]:
    strata: dict[tuple[str, ...], Counter[Pattern]] = {}
    for key in left:
        pattern = _parts(left[key]), _parts(right[key])
        names = tuple(sorted({name for name, _, _ in (*pattern[0], *pattern[1])}))
        strata.setdefault(names, Counter())[pattern] += 1
    return strata


def _parts(parts: Mapping[str, tuple[float, float]]) -> Parts:
    return tuple((name, float(a), float(b)) for name, (a, b) in sorted(parts.items()))


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
        + (f"; {difference.left_out} not the same in both, left out" if difference.left_out else ""),
        "the interval excludes 0"
        if difference.clear
        else "the interval contains 0: the difference may be chance",
    ]


def folder_lines(comparison: Compared) -> list[str]:
    """Each protocol's comparison under its name."""
    texts = [
        line
        for name, one in comparison.differences.items()
        for line in (name, *(f"  {t}" for t in lines(one)))
    ]
    return texts + [f"in one folder only: {name}" for name in comparison.alone]


def to_json(comparison: Difference | Compared) -> str:
    """The comparison as JSON, fractions or points as in the reports; two folders' by protocol."""
    data = (
        _plain(comparison)
        if isinstance(comparison, Difference)
        else {name: _plain(one) for name, one in comparison.differences.items()}
    )
    return json.dumps(data, indent=2)


def _plain(difference: Difference) -> dict[str, Any]:
    return {**vars(difference), "difference": difference.value, "clear": difference.clear}
