"""GQA: LLaVA's question file and the official questions, which hold the answers, joined by question id.

The official file is sufficient: it has the questions and the names of their images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from vlm_bench.benchmarks.gqa.files import official_questions, read_labels
from vlm_bench.benchmarks.gqa.scoring import is_open, parse, parse_normalized
from vlm_bench.benchmarks.layout import File, ImagesConfig, Source, Strictness, file_field
from vlm_bench.files.json_files import json_object
from vlm_bench.files.label_checks import check_ids, check_texts
from vlm_bench.files.questions import read_questions
from vlm_core.benchmark import Benchmark, CreditBenchmark, Question, Score
from vlm_core.io.image_folder import ImageFolder


class GQAConfig(ImagesConfig):
    """GQA: the balanced test-dev questions"""

    layout: ClassVar = {
        "questions": "gqa/llava_gqa_testdev_balanced.jsonl",
        "questions.official": "gqa/data/testdev_balanced_questions.json",
        "labels": "gqa/data/testdev_balanced_questions.json",
        "images": "gqa/data/images",
    }
    type: Literal["gqa"] = "gqa"
    source: Source = "llava"
    questions: File | None = file_field("llava_gqa_testdev_balanced.jsonl, or the file that holds the labels")
    labels: File | None = file_field("testdev_balanced_questions.json")
    images: File | None = file_field("folder with the images")
    strictness: Strictness = "official"

    def build(self) -> Benchmark:
        """Read and join. The test-dev set has 12,578 balanced questions about 398 images."""
        return GQA(
            self.file("questions"),
            self.file("labels"),
            self.image_folder(),
            official=self.source == "official",
            normalized=self.strictness == "normalized",
        )


class GQA(CreditBenchmark):
    """Accuracy over balanced questions, as LLaVA's patched evaluation: no consistency, no grounding."""

    def __init__(
        self,
        path: Path,
        labels: Path,
        images: ImageFolder,
        *,
        official: bool = False,
        normalized: bool = False,
    ) -> None:
        """`path` is the question file, which is the label file, too, where `official`."""
        questions = {q.id: q for q in (official_questions(path) if official else read_questions(path))}
        rows = json_object(labels)
        check_ids(questions.keys(), rows.keys(), labels)
        texts = {key: rows[key].text("question") for key in questions}
        check_texts({key: q.question for key, q in questions.items()}, texts, labels)
        self.labels = read_labels(rows)
        self.parse = parse_normalized if normalized else parse
        super().__init__(
            "llava-1.5/gqa-testdev-balanced",
            (Question(key, q.text, images.path(q.image, q.where)) for key, q in questions.items()),
            expected=len(self.labels.keys() | questions.keys()),
            files={path.name: path, labels.name: labels},
        )

    def credit(self, key: str, text: str) -> float:
        return float(self.parse(text) == self.labels[key].answer)

    def right(self, key: str) -> str:
        return self.labels[key].answer

    def groups(self, key: str) -> Iterable[str]:
        label = self.labels[key]
        yield "open" if is_open(label.structural) else "binary"
        yield f"structural: {label.structural}"
        yield f"semantic: {label.semantic}"
        yield f"steps: {label.steps}"
        yield f"words: {label.words}"

    def score(self, answers: Mapping[str, str]) -> Score:
        balanced = {key: text for key, text in answers.items() if key in self.labels}
        score = super().score(balanced)
        rows = {name: score.rows[name] for name in sorted(score.rows, key=_row_order)}
        return Score(score.headline, rows, unscored=len(answers) - len(balanced))


def _row_order(name: str) -> tuple[int, str, int, str]:
    """All, open and binary first; then kind by kind, numbers by their size."""
    kind, _, value = name.partition(": ")
    first = ("all", "open", "binary", "structural", "semantic", "steps", "words").index(kind)
    return first, kind, int(value) if value.isdigit() else 0, value
