"""What benchmarks gave while training, for people: no figure stands without the number of questions behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
NOTE = (
    "Samples of benchmarks, asked while training; not the benchmarks' figures, which `vlm-bench run` finds."
)


def ends(records: Sequence[Record]) -> list[Record]:
    """The last record of each stage."""
    return list({record["stage"]: record for record in records}.values())


def value(found: Record) -> float:
    """The figure as it is printed: points, or percent."""
    return found["score"] * (1 if found["unit"] == "points" else 100)


def title(name: str, found: Record) -> str:
    """The benchmark, its figure and unit."""
    return f"{name}: {found['metric']}" + ("" if found["unit"] == "points" else ", %")


def cell(found: Record) -> str:
    """The figure with its counts; `partial` if any question has no part in it."""
    mark = "partial, " if found["partial"] else ""
    return f"{value(found):.1f} ({mark}{found['scored']} of {found['expected']})"


def table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Titles and a row for the end of each stage (or its newest step); a column for each benchmark."""
    named = {name: title(name, f) for record in records for name, f in record["benchmarks"].items()}
    rows = [
        [f"{m['name']} {m['step']}" + (", average" if m["weights"] == "average" else ""),
         *(cell(m["benchmarks"][name]) if name in m["benchmarks"] else "–" for name in named)]
        for m in ends(records)
    ]  # fmt: skip
    return ["", *named.values()], rows
