"""Compares two reports on the same questions, or a report with its baselines: the difference and its interval."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.report.baselines import baseline_lines, read_baselines
from vlm_bench.report.collect import Results
from vlm_bench.report.paired import Difference, difference
from vlm_bench.report.paired import lines as lines
from vlm_bench.report.saved_reports import NoReportError, read_report
from vlm_core.benchmark import Headline
from vlm_core.errors import UserError


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
    left, right = (_headline(r, common) for r in (a, b))
    return difference(left, right, left_out=len(alone) + len(other), seed=seed)


def _headline(report: Mapping[str, Any], keys: Sequence[str]) -> Headline:
    units = {key: report["units"][key] for key in keys}
    return Headline(report["metric"], units, report["combine"], report["unit"] == "points")


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
    reports: Mapping[str, tuple[Path, Path]]
    """The two compared reports by protocol."""


def compare_folders(first: Results, second: Results, *, allow_partial: bool = False) -> Compared:
    """Compare the reports of each common protocol; raises `UserError` for a folder with two reports of one."""
    left, right = by_protocol(first), by_protocol(second)
    common = [protocol for protocol in left if protocol in right]
    if not common:
        raise UserError(
            f"no protocol is in both: {first.folder} has {', '.join(left) or 'none'}; "
            f"{second.folder} has {', '.join(right) or 'none'}"
        )
    return Compared(
        {p: compare(left[p], right[p], allow_partial=allow_partial) for p in common},
        sorted(left.keys() ^ right.keys()),
        {p: (left[p], right[p]) for p in common},
    )


def by_protocol(results: Results) -> dict[str, Path]:
    """The reports of a folder; raises `UserError` for two of one protocol."""
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


def compare_baselines(path: Path) -> dict[str, Difference]:
    """A report's score minus each of its baselines; raises `UserError` if it has none."""
    baselines = read_baselines(_report(path))
    scores = {b.name: b.difference for b in baselines if b.difference is not None}
    if not scores:
        reasons = [f"  {b.name}: {b.how}" for b in baselines]
        raise UserError(
            f"{path}: no baseline has a score; `vlm-bench run … --baselines` asks them, `score` computes chance",
            *reasons,
        )
    return scores


def baseline_texts(baselines: Mapping[str, Difference]) -> list[str]:
    """Each baseline's comparison under its name."""
    return [line for name, one in baselines.items() for line in (name, *indented(lines(one)))]


def own_baselines(path: Path) -> list[str]:
    """The baselines of one of two compared reports, under its name."""
    baselines = baseline_lines(read_baselines(_report(path)))
    return [str(path), *indented(baselines)] if baselines else []


def indented(texts: Iterable[str]) -> list[str]:
    """Lines below a heading."""
    return [f"  {text}" for text in texts]


def folder_lines(comparison: Compared) -> list[str]:
    """Each protocol's comparison under its name."""
    texts = []
    for name, one in comparison.differences.items():
        own = [line for path in comparison.reports[name] for line in own_baselines(path)]
        texts += [name, *indented([*lines(one), *own])]
    return texts + [f"in one folder only: {name}" for name in comparison.alone]


Comparison = Difference | Compared | Mapping[str, Any]


def to_json(comparison: Comparison) -> str:
    """The comparison as JSON, fractions or points as in the reports; by protocol, by baseline or both."""
    return json.dumps(_plain(comparison), indent=2)


def _plain(comparison: Comparison) -> dict[str, Any]:
    if isinstance(comparison, Difference):
        return {**vars(comparison), "difference": comparison.value, "clear": comparison.clear}
    parts = comparison.differences if isinstance(comparison, Compared) else comparison
    return {name: _plain(one) for name, one in parts.items()}
