"""The report of a scoring run: its figures and their conditions, as JSON, Markdown or text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_bench.report.baselines import Baseline, baseline_lines, read_baselines
from vlm_bench.report.paired import score_interval
from vlm_bench.report.published.paper_table import published_figures
from vlm_bench.report.saved_reports import SCHEMA
from vlm_core.benchmark import Headline, Points, Score
from vlm_core.io.atomic import write_file
from vlm_core.markup import markdown
from vlm_core.markup.printable import json_text

_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Report:
    """One scored answer file.

    `files` are sha256 by name, `notes` the variant of data and prompt, `settings` the run's settings, if known,
    `examples` the answers that `vlm-bench report` shows with images, `content` a digest of each unit's questions,
    `baselines` the scores without the model or without the right image.
    The headline is a fraction, or points.
    """

    benchmark: str
    protocol: str
    score: Score
    expected: int
    scored: int
    empty: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    examples: Sequence[Mapping[str, Any]] = ()
    content: Mapping[str, str] = field(default_factory=dict)
    baselines: Sequence[Baseline] = ()

    @cached_property
    def interval(self) -> tuple[float, ...]:
        """The 95 % interval of the score, by bootstrap over the units; () without units."""
        return score_interval(self.headline) if self.headline.units else ()

    @property
    def headline(self) -> Headline:
        return self.score.headline

    @property
    def missing(self) -> int:
        """Number of expected answers that are not scored, for any reason."""
        return self.expected - self.scored

    @property
    def parse(self) -> dict[str, int]:
        """Counts of how answers were read, and of empty answers if there are any."""
        return dict(self.score.parse) | ({"empty": self.empty} if self.empty else {})

    def as_dict(self, *, units: bool = False) -> dict[str, Any]:
        """The report as JSON values; `units` adds the data of `vlm-bench diff` and `vlm-bench report`."""
        fields = {
            "schema": SCHEMA,
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "metric": self.headline.name,
            "score": self.headline.value,
            "unit": "points" if self.headline.points else "fraction",
            "interval": list(self.interval),
            "baselines": [baseline.as_dict() for baseline in self.baselines],
            "partial": self.missing > 0,
            "scored": self.scored,
            "expected": self.expected,
            "missing": self.missing,
            "unscored": self.score.unscored,
            "rows": {name: dict(row) for name, row in self.score.rows.items()},
            "points": sorted(
                {c for row in self.score.rows.values() for c, v in row.items() if isinstance(v, Points)}
            ),
            "parse": self.parse,
            "notes": dict(self.notes),
            "settings": dict(self.settings),
            "published": published_figures(self.benchmark),
            "sha256": dict(self.files),
            "warnings": list(self.warnings),
        }
        if not units:
            return fields
        drawn = {key: dict(parts) for key, parts in self.headline.units.items()}
        return fields | {
            "combine": self.headline.combine,
            "examples": list(map(dict, self.examples)),
            "units": drawn,
            "content": dict(self.content),
        }


def to_json(report: Report) -> str:
    """The report as indented JSON."""
    return json_text(report.as_dict(), 2)


def save(report: Report, path: Path) -> None:
    """Write the report with its units and examples, for `vlm-bench report` and `vlm-bench diff`."""
    write_file(path, json_text(report.as_dict(units=True)))


def figure(value: float | int) -> str:
    """A figure as text: counts and points unchanged, fractions in percent."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if isinstance(value, Points) else f"{100 * value:.2f}"


def conditions(data: Mapping[str, Any]) -> list[str]:
    """The conditions of a figure, from `Report.as_dict`; parts may be absent."""
    described = {**data.get("notes", {}), **data.get("settings", {})}
    return [
        *_figures(data),
        *(f"{what}: {count} of {data['scored']}" for what, count in data.get("parse", {}).items()),
        *(f"{what}: {plain(value)}" for what, value in described.items()),
        *(f"{file}  sha256 {digest[:16]}" for file, digest in data.get("sha256", {}).items()),
        *(f"warning: {text}" for text in data.get("warnings", [])),
    ]


def _figures(data: Mapping[str, Any]) -> list[str]:
    if "score" not in data:
        return []
    points = data["unit"] == "points"
    value, *bounds = (
        figure(Points(x) if points else float(x)) for x in (data["score"], *data.get("interval", ()))
    )
    interval = f", 95 % interval [{', '.join(bounds)}]" if bounds else ""
    partial = "  PARTIAL: not comparable to a full run" if data["partial"] else ""
    known = ", ".join(f"{model} {number}" for model, number in data["published"].items())
    return [
        f"{data['metric']}  {value}{interval}{partial}",
        *baseline_lines(read_baselines(data)),
        *([f"published: {known}"] if known else []),
        f"scored {data['scored']} of {data['expected']}, missing {data['missing']}",
    ]


def plain(value: Any) -> str:
    """A setting as text: hashes are shortened, groups are written on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value[:16] if isinstance(value, str) and _HASH.fullmatch(value) else str(value)


def to_markdown(report: Report) -> str:
    """The report as a Markdown table and a list of its conditions."""
    columns = _columns(report)
    rows = ([name, *_cells(row, columns)] for name, row in report.score.rows.items())
    lines = [
        f"### {markdown.text(report.protocol)}",
        "",
        *markdown.table([["", *columns], *rows], right=1),
        "",
        *(f"- {markdown.text(line)}" for line in conditions(report.as_dict())),
    ]
    return "\n".join(lines)


def show(report: Report) -> None:
    """Print the report as a table."""
    from rich.console import Console
    from rich.table import Table

    from vlm_core.cli.output import inert

    console = Console(soft_wrap=True, highlight=False)
    columns = _columns(report)
    table = Table("", title=inert(report.protocol, "table.title"), title_justify="left")
    for column in columns:
        table.add_column(inert(column), justify="right")
    for name, row in report.score.rows.items():
        table.add_row(inert(name), *_cells(row, columns))
    console.print(table)
    for line in conditions(report.as_dict()):
        console.print(inert(line))


def _columns(report: Report) -> list[str]:
    """The columns of all rows, in the order of their first appearance."""
    return list(dict.fromkeys(column for row in report.score.rows.values() for column in row))


def _cells(row: Mapping[str, float | int], columns: list[str]) -> list[str]:
    return [figure(row[column]) if column in row else "" for column in columns]
