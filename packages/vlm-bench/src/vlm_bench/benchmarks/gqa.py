"""GQA: LLaVA's question file and the official questions, which hold the answers, joined by question id.

The official file alone will do: it has the questions and their images, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vlm_bench.check import check_ids, check_texts
from vlm_bench.configs import GQAConfig
from vlm_bench.readers.files import json_object
from vlm_bench.readers.json_object import Row
from vlm_bench.readers.questions import Asked, asked, read_questions
from vlm_bench.scorers.gqa import SEMANTIC, STRUCTURAL, is_open, parse, parse_sane, steps
from vlm_core.benchmark import Benchmark, CreditBenchmark, Question, Score


def build(config: GQAConfig) -> Benchmark:
    """Read and join. The test-dev set has 12,578 balanced questions about 398 images."""
    return GQA(config)


class GQA(CreditBenchmark):
    """Accuracy over balanced questions, as LLaVA's patched evaluation: no consistency, no grounding."""

    def __init__(self, config: GQAConfig) -> None:
        path, labels, images = config.file("questions"), config.file("labels"), config.image_folder()
        official = config.source == "official"
        found = {q.id: q for q in (_official(json_object(path)) if official else read_questions(path))}
        gold = json_object(labels)
        check_ids(found.keys(), gold.keys(), labels)
        texts = {key: gold[key].text("question") for key in found}
        check_texts({key: q.question for key, q in found.items()}, texts, labels)
        self.gold = {key: _gold(row) for key, row in gold.items() if _balanced(row)}
        self.parse = parse_sane if config.strictness == "sane" else parse
        super().__init__(
            "llava-1.5/gqa-testdev-balanced",
            (Question(key, q.text, images.path(q.image, q.where)) for key, q in found.items()),
            expected=len(self.gold.keys() | found.keys()),
            files={path.name: path, labels.name: labels},
        )

    def credit(self, key: str, text: str) -> float:
        return float(self.parse(text) == self.gold[key]["answer"])

    def right(self, key: str) -> str:
        return self.gold[key]["answer"]

    def groups(self, key: str) -> Iterable[str]:
        gold = self.gold[key]
        yield "open" if is_open(gold["structural"]) else "binary"
        yield f"structural: {gold['structural']}"
        yield f"semantic: {gold['semantic']}"
        yield f"steps: {gold['steps']}"
        yield f"words: {gold['words']}"

    def score(self, answers: Mapping[str, str]) -> Score:
        balanced = {key: text for key, text in answers.items() if key in self.gold}
        found = super().score(balanced)
        order = sorted(found.rows, key=_place)
        rows = {name: found.rows[name] for name in order}
        return Score(found.headline, rows, unscored=len(answers) - len(balanced))


def _official(rows: Mapping[str, Row]) -> Iterator[Asked]:
    """The balanced questions as LLaVA asks them."""
    for key, row in rows.items():
        if _balanced(row):
            yield asked(key, f"{row.id('imageId')}.jpg", row.text("question"), row.where)


def _balanced(row: Row) -> bool:
    return row.flag("isBalanced")


def _gold(row: Row) -> dict[str, Any]:
    types, program = row.row("types"), row.items("semantic", dict, "a list of steps")
    return {
        "answer": row.text("answer"),
        "structural": types.one_of("structural", STRUCTURAL),
        "semantic": types.one_of("semantic", SEMANTIC),
        "steps": steps([_step(step, row.where) for step in program]),
        "words": len(row.text("question").split()),
    }


def _step(data: dict[str, Any], where: str) -> dict[str, str]:
    step = Row(f"{where}: semantic", data)
    return {"operation": step.text("operation"), "argument": step.text("argument")}


def _place(name: str) -> tuple[int, str, int, str]:
    """All, open and binary first; then kind by kind, numbers by their size."""
    kind, _, value = name.partition(": ")
    first = ("all", "open", "binary", "structural", "semantic", "steps", "words").index(kind)
    return first, kind, int(value) if value.isdigit() else 0, value
