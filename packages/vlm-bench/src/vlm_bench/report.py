"""What a scoring run hands back, and how it is shown: as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """One scored answer file. Figures are fractions; `headline` is the one that papers print."""

    protocol: str
    headline: tuple[str, float]
    rows: dict[str, dict[str, float | int]]
    scored: int
    expected: int
    parse: dict[str, int]
    files: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return self.expected - self.scored

    def as_dict(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "protocol": self.protocol,
            "metric": self.headline[0],
            "score": self.headline[1],
            "partial": self.missing > 0,
            "scored": self.scored,
            "expected": self.expected,
            "missing": self.missing,
            "rows": self.rows,
            "parse": self.parse,
            "sha256": self.files,
            "warnings": self.warnings,
        }


def to_json(report: Report) -> str:
    """The report as indented JSON."""
    return json.dumps(report.as_dict(), indent=2, ensure_ascii=False)


def show(report: Report) -> None:
    """Print the report for people: percentages with two decimals."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    columns = list(next(iter(report.rows.values())))
    table = Table("", *columns, title=escape(report.protocol), title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figures in report.rows.items():
        table.add_row(name, *(_cell(figures[column]) for column in columns))
    console.print(table)
    for line in _lines(report):
        console.print(escape(line))


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{100 * value:.2f}"


def _lines(report: Report) -> list[str]:
    name, value = report.headline
    partial = "  PARTIAL: not comparable to a full run" if report.missing else ""
    lines = [
        f"{name}  {100 * value:.2f}{partial}",
        f"scored {report.scored} of {report.expected}, missing {report.missing}",
        *(f"{what}: {count} of {report.scored}" for what, count in report.parse.items()),
        *(f"{file}  sha256 {digest[:16]}" for file, digest in report.files.items()),
        *(f"warning: {text}" for text in report.warnings),
    ]
    return lines
