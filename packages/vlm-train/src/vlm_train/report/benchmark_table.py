"""The table of benchmark scores during training; every score is shown with its number of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
NOTE = "Scores on samples of the benchmarks, for monitoring; `vlm-bench run` measures the official scores."


def ends(records: Sequence[Record]) -> list[Record]:
    """The last record of each stage."""
    return list({record["stage"]: record for record in records}.values())


def value(score: Record) -> float:
    """The score as printed: points, or percent."""
    return score["score"] * (1 if score["unit"] == "points" else 100)


def title(name: str, score: Record) -> str:
    """The title of a column: benchmark, metric and unit."""
    return f"{name}: {score['metric']}" + ("" if score["unit"] == "points" else ", %")


def cell(score: Record) -> str:
    """The score with its counts and baselines; `partial` unless all questions of the benchmark are scored."""
    mark = "partial, " if score["partial"] else ""
    baselines = "".join(
        f"; {name} {value({**score, 'score': baseline}):.1f}"
        for name, baseline in score.get("baselines", {}).items()
    )
    return f"{value(score):.1f} ({mark}{score['scored']} of {score['expected']}){baselines}"


def table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Titles, and a row for the last evaluation of each stage; a column for each benchmark."""
    titles = {name: title(name, score) for record in records for name, score in record["benchmarks"].items()}
    rows = []
    for record in ends(records):
        scores = record["benchmarks"]
        average = ", average" if record["weights"] == "average" else ""
        cells = [cell(scores[name]) if name in scores else "–" for name in titles]
        rows.append([f"{record['name']} {record['step']}{average}", *cells])
    return ["", *titles.values()], rows
