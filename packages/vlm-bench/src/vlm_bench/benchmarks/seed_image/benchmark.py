"""SEED-Image: LLaVA's question file and SEED-Bench's own, which holds the labels, joined by question id.

Both files also have questions about videos; they are not asked, and answers to them are not scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from vlm_bench.benchmarks.layout import File, ImagesConfig, Source, Strictness, file_field
from vlm_bench.benchmarks.seed_image.files import Label, read_labels
from vlm_bench.benchmarks.seed_image.scoring import LETTERS, parse
from vlm_bench.files.label_checks import check_count, check_ids, check_texts
from vlm_bench.files.questions import Asked, read_questions
from vlm_bench.scoring.letters import parse_normalized
from vlm_core.benchmark import Benchmark, CreditBenchmark, Question, Score, Verdict
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder

COUNT = 14233
VIDEO = "they are about videos"
_OPTION = re.compile(r"^[A-D]\. *(.*)$", re.MULTILINE)


class SeedImageConfig(ImagesConfig):
    """SEED-Image: SEED-Bench's questions about images"""

    layout: ClassVar = {
        "questions": "seed_bench/llava-seed-bench.jsonl",
        "questions.official": "seed_bench/SEED-Bench.json",
        "labels": "seed_bench/SEED-Bench.json",
        "images": "seed_bench",
    }
    type: Literal["seed-image"] = "seed-image"
    source: Source = "llava"
    questions: File | None = file_field("llava-seed-bench.jsonl, or the file that holds the labels")
    labels: File | None = file_field("SEED-Bench.json")
    images: File | None = file_field("folder that holds SEED-Bench-image")
    strictness: Strictness = "official"

    def build(self) -> Benchmark:
        """Read and join. There are 14,233 questions about images, of nine types."""
        return SeedImage(
            self.file("questions"),
            self.file("labels"),
            self.image_folder(),
            official=self.source == "official",
            normalized=self.strictness == "normalized",
        )


class SeedImage(CreditBenchmark):
    """Accuracy over the questions about images, also by type."""

    def __init__(
        self,
        path: Path,
        labels: Path,
        images: ImageFolder,
        *,
        official: bool = False,
        normalized: bool = False,
    ) -> None:
        """`path` is LLaVA's question file or, where `official`, the label file."""
        every = read_labels(path if official else labels)
        self.labels = {key: label for key, label in every.items() if label.data_type == "image"}
        self.not_asked = dict.fromkeys(every.keys() - self.labels.keys(), VIDEO)
        self.parse = parse_normalized if normalized else parse
        if official:
            asked = {key: label.asked(key) for key, label in self.labels.items()}
        else:
            asked = _image_questions(path, labels, every)
        other, warnings = check_count(len(self.labels), COUNT, "questions about images")
        super().__init__(
            f"llava-1.5/seed-image{other}",
            (
                Question(key, q.text, images.path(q.image, q.where), self.labels[key].options)
                for key, q in asked.items()
            ),
            expected=len(self.labels),
            files={path.name: path} if official else {path.name: path, labels.name: labels},
            warnings=warnings,
        )

    def credit(self, key: str, text: str) -> float:
        return float(self.parse(text) == self.labels[key].right)

    def groups(self, key: str) -> Iterable[str]:
        yield self.labels[key].kind

    def right(self, key: str) -> str:
        return self.labels[key].right

    def verdict(self, key: str, text: str) -> Verdict:
        return Verdict(self.credit(key, text), self.right(key), self.parse(text) or "")

    def score(self, answers: Mapping[str, str]) -> Score:
        unread = sum(self.parse(text) not in LETTERS for text in answers.values())
        return replace(super().score(answers), parse={"no option's letter (wrong)": unread})


def _image_questions(path: Path, labels: Path, every: Mapping[str, Label]) -> dict[str, Asked]:
    """The questions about images of LLaVA's file, which must be those of the label file."""
    questions = {q.id: q for q in read_questions(path)}
    check_ids(questions.keys(), every.keys(), labels)
    texts = {key: every[key].question.split("\n")[0] for key in questions}
    check_texts({key: q.question for key, q in questions.items()}, texts, labels)
    _check_order(questions, every, labels)
    return {key: q for key, q in questions.items() if every[key].data_type == "image"}


def _check_order(questions: Mapping[str, Asked], every: Mapping[str, Label], labels: Path) -> None:
    """Refuse options in another order than the labels', whose letters would be other options'."""
    other = [key for key, q in questions.items() if _reordered(q.text, every[key].options)]
    if other:
        raise UserError(
            f"{labels}: {len(other)} of {len(questions)} questions have their options in another order, first id "
            f"{other[0]}; is this another revision of the questions?"
        )


def _reordered(text: str, options: tuple[str, ...]) -> bool:
    asked = [" ".join(option.split()) for option in _OPTION.findall(text)]
    known = [" ".join(option.split()) for option in options]
    return asked != known and sorted(asked) == sorted(known)
