"""LLaVA-Bench (In-the-Wild): open answers. A judge reviews them with LLaVA's script; the reviews are scored here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import File, ImagesConfig, file_field
from vlm_bench.benchmarks.llava_bench.files import CATEGORIES, HIGHEST, Review, read_reviews
from vlm_bench.benchmarks.llava_bench.scoring import relative_score
from vlm_bench.files.baseline_files import baseline_file
from vlm_bench.files.label_checks import check_count, check_ids
from vlm_bench.files.questions import Asked, read_questions
from vlm_core.benchmark import Benchmark, Chance, Headline, Question, Score, Verdict
from vlm_core.errors import UserError, choices
from vlm_core.io.image_folder import ImageFolder

COUNT = 60


class LlavaBenchConfig(ImagesConfig):
    """LLaVA-Bench (In-the-Wild): open answers, scored from a judge's reviews"""

    layout: ClassVar = {
        "questions": "llava-bench-in-the-wild/questions.jsonl",
        "images": "llava-bench-in-the-wild/images",
    }
    type: Literal["llava-bench"] = "llava-bench"
    questions: File | None = file_field("questions.jsonl")
    images: File | None = file_field("folder with the images")
    reviews: File | None = file_field("the judge's reviews, as LLaVA's eval_gpt_review_bench.py writes them")
    judge: str = Field(default="unknown", description="the judge's name, which review files do not have")

    def for_baseline(self, name: str) -> LlavaBenchConfig:
        """With the reviews of the baseline's answers: `reviews.question-alone.jsonl` next to `reviews.jsonl`."""
        path = baseline_file(self.reviews, name) if self.reviews else None
        return self.model_copy(update={"reviews": path if path and path.is_file() else None})

    def build(self) -> Benchmark:
        """Read the questions, 60 about 24 images, and the reviews if they are given."""
        return LlavaBench(self.file("questions"), self.image_folder(), self.reviews, self.judge)


class LlavaBench(Benchmark):
    """The headline is the relative score: the model's mean score in percent of the reference answers'."""

    max_new_tokens = 1024

    def __init__(
        self, path: Path, images: ImageFolder, reviews: Path | None = None, judge: str = "unknown"
    ) -> None:
        asked = {q.id: q for q in read_questions(path)}
        self.categories = {key: _category(q) for key, q in asked.items()}
        self.reviews = read_reviews(reviews) if reviews else {}
        if reviews:
            check_ids(self.reviews.keys(), asked.keys(), path, "question in this file")
            _check_categories(reviews, self.reviews, self.categories)
        self.scores = {key: review.scores for key, review in self.reviews.items() if review.scores}
        self.graded = frozenset(self.reviews)
        self.scored_by = "here" if reviews else "judge"
        other, warnings = check_count(len(asked), COUNT, "questions")
        super().__init__(
            f"llava-bench-in-the-wild{other} reviews by {judge if reviews else 'none'}",
            (Question(key, q.text, images.path(q.image, q.where)) for key, q in asked.items()),
            files={file.name: file for file in (path, reviews) if file},
            notes={"judge": judge} if reviews else {},
            warnings=warnings,
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        if not self.graded:
            raise UserError(
                "LLaVA-Bench's answers are reviewed by a judge: run LLaVA's eval_gpt_review_bench.py on them, with the "
                "answers of text-only GPT-4 as the first list; then name its file with --reviews"
            )
        scored = [key for key in answers if key in self.scores]
        rows = {"all": self._row(scored)}
        for category in CATEGORIES:
            rows[category] = self._row([key for key in scored if self.categories[key] == category])
        units = {key: {"all": (self.scores[key][1], self.scores[key][0])} for key in scored}
        return Score(
            Headline("relative score", units),
            rows,
            {"without two scores in the review (unscored)": len(answers) - len(scored)},
            unscored=len(answers) - len(scored),
        )

    def _row(self, keys: Sequence[str]) -> dict[str, float | int]:
        pairs = [self.scores[key] for key in keys]
        means = [sum(scores) / len(pairs) / HIGHEST for scores in zip(*pairs, strict=True)] or [0.0, 0.0]
        return {
            "n": len(keys),
            "relative score": relative_score(pairs),
            "reference": means[0],
            "model": means[1],
        }

    def chance(self, keys: Sequence[str]) -> Chance:
        return Chance("undefined: a judge reviews free text")

    def check_answers(self, answers: Mapping[str, str]) -> list[str]:
        return ["reviews name no answers: nothing shows that they are of these"] if self.graded else []

    def verdict(self, key: str, text: str) -> Verdict | None:
        scores = self.scores.get(key)
        return Verdict(scores[1] / HIGHEST) if scores else None


def _category(question: Asked) -> str:
    if question.category not in CATEGORIES:
        hint = choices(question.category, CATEGORIES)
        raise UserError(f"{question.where}: unknown category {question.category!r}{hint}")
    return question.category


def _check_categories(path: Path, reviews: Mapping[str, Review], categories: Mapping[str, str]) -> None:
    other = [key for key, review in reviews.items() if review.category != categories[key]]
    if other:
        key = other[0]
        raise UserError(
            f"{path}: {len(other)} of {len(reviews)} reviews have another category than their question, first id "
            f"{key}: {reviews[key].category} where {categories[key]} is asked; are these of another LLaVA-Bench?"
        )
