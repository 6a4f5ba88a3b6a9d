"""A score beside its baselines: the difference on the same units, and whether it is above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlm_bench.report.paired import REPORT_DRAWS, Difference, difference
from vlm_core.benchmark import Headline


@dataclass(frozen=True)
class Baseline:
    """A baseline of a score: `how` it answers, and the model's score minus the baseline's.

    Without a `difference` there is no score, and `how` is the reason.
    """

    name: str
    how: str
    difference: Difference | None = None

    def as_dict(self) -> dict[str, Any]:
        """The baseline as JSON values."""
        return asdict(self)


def read_baselines(data: Mapping[str, Any]) -> list[Baseline]:
    """The baselines of a saved report; none in a report of an earlier version."""
    return [
        Baseline(b["name"], b["how"], Difference(**b["difference"]) if b["difference"] else None)
        for b in data.get("baselines", ())
    ]


def compared(
    name: str, how: str, model: Headline, baseline: Headline, content: tuple[Mapping[str, str], ...] = ()
) -> Baseline:
    """The comparison on the units of `model` that `baseline` has, too.

    `content` are both sides' digests of the units' questions: units with other questions are left out.
    """
    keys = [key for key in model.units if key in baseline.units]
    if content:
        keys = [key for key in keys if content[0].get(key) == content[1].get(key)]
    if not keys:
        return Baseline(name, f"{how}: has no question in common with the model's answers")
    left_out = len(model.units.keys() | baseline.units.keys()) - len(keys)
    sides = (_part(headline, keys) for headline in (baseline, model))
    return Baseline(name, how, difference(*sides, left_out=left_out, draws=REPORT_DRAWS))


def _part(headline: Headline, keys: Sequence[str]) -> Headline:
    units = {key: headline.units[key] for key in keys}
    return Headline(headline.name, units, headline.combine, headline.points)


def not_above(baselines: Sequence[Baseline]) -> list[str]:
    """Names of the baselines that the model isn't above: the 95 % interval of the difference does not exceed 0."""
    return [b.name for b in baselines if b.difference is not None and b.difference.low <= 0]


def baseline_lines(baselines: Sequence[Baseline]) -> list[str]:
    """Each baseline's score and the model's difference from it, and which ones the model isn't above."""
    return [*map(_line, baselines), *verdict(baselines)]


def verdict(baselines: Sequence[Baseline]) -> list[str]:
    """A line that says which baselines the model isn't above; none if it is above all."""
    if names := not_above(baselines):
        return [f"NOT ABOVE {', '.join(names)}: the 95 % interval of the difference is not above 0"]
    return []


def _line(baseline: Baseline) -> str:
    d = baseline.difference
    if d is None:
        return f"baseline {baseline.name}: no score, {baseline.how}"
    scale = 1 if d.points else 100
    first, value, low, high = (scale * x for x in (d.first, d.value, d.low, d.high))
    p = "" if d.p is None else f", McNemar p = {d.p:.2g}"
    units = f", on {d.units} of {d.units + d.left_out} units" if d.left_out else ""
    return (
        f"baseline {baseline.name}  {first:.2f}, model {value:+.2f} [{low:+.2f}, {high:+.2f}]{p}{units} "
        f"({baseline.how})"
    )
