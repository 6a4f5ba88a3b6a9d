"""GQA's official question file, which holds the answers, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.benchmarks.gqa.scoring import SEMANTIC, STRUCTURAL, steps
from vlm_bench.files.json_files import json_object
from vlm_bench.files.json_object import Row
from vlm_bench.files.questions import Asked, asked


@dataclass(frozen=True)
class Label:
    """A question's right answer and the groups that its accuracy counts in."""

    answer: str
    structural: str
    semantic: str
    steps: int
    words: int


def official_questions(path: Path) -> Iterator[Asked]:
    """The balanced questions as LLaVA asks them."""
    for key, row in json_object(path).items():
        if _is_balanced(row):
            yield asked(key, f"{row.id('imageId')}.jpg", row.text("question"), row.where)


def read_labels(rows: Mapping[str, Row]) -> dict[str, Label]:
    """The labels of the balanced questions, by question id."""
    return {key: _label(row) for key, row in rows.items() if _is_balanced(row)}


def _is_balanced(row: Row) -> bool:
    return row.flag("isBalanced")


def _label(row: Row) -> Label:
    types, program = row.row("types"), row.items("semantic", dict, "a list of steps")
    return Label(
        answer=row.text("answer"),
        structural=types.one_of("structural", STRUCTURAL),
        semantic=types.one_of("semantic", SEMANTIC),
        steps=steps([_step(step, row.where) for step in program]),
        words=len(row.text("question").split()),
    )


def _step(data: dict[str, Any], where: str) -> dict[str, str]:
    step = Row(f"{where}: semantic", data)
    return {"operation": step.text("operation"), "argument": step.text("argument")}
