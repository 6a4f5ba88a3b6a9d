"""POPE: LLaVA's question file and POPE's label files, joined by image and question; or the label files alone.

Questions about COCO's images are POPE's figure in most tables; for A-OKVQA and GQA there are label files only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

from vlm_bench.benchmarks.layout import File, ImagesConfig, Source, Strictness, file_field
from vlm_bench.benchmarks.pope.files import (
    A_OKVQA,
    COCO,
    GQA,
    SPLITS,
    Labels,
    Question,
    Variant,
    missing_labels,
    official_questions,
    read_labels,
    read_questions,
)
from vlm_bench.benchmarks.pope.scoring import SplitScore, mean_figures, score_split
from vlm_core import benchmark
from vlm_core.benchmark import Benchmark, Chance, Headline, Score, Verdict
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder


class PopeConfig(ImagesConfig):
    """POPE: object hallucination, yes/no questions"""

    layout: ClassVar = {
        "questions": "pope/llava_pope_test.jsonl",
        "questions.official": "pope/coco",
        "labels": "pope/coco",
        "images": "pope/val2014",
    }
    type: Literal["pope"] = "pope"
    source: Source = "llava"
    questions: File | None = file_field("llava_pope_test.jsonl, or the folder with the label files")
    labels: File | None = file_field("folder with coco_pope_{random,popular,adversarial}.json")
    images: File | None = file_field("folder with COCO's val2014")
    strictness: Strictness = "official"

    def lacking(self) -> str:
        official = self.source == "official"
        return super().lacking() or missing_labels(self.file("questions" if official else "labels"))

    def build(self) -> Benchmark:
        """Read and join; questions without a label are a `UserError` with the counts."""
        return Pope(
            None if self.source == "official" else self.file("questions"),
            self.file("questions" if self.source == "official" else "labels"),
            self.image_folder(),
            normalized=self.strictness == "normalized",
        )


class _LabelsOnlyConfig(ImagesConfig):
    """A variant of which only POPE's own label files exist."""

    variant: ClassVar[Variant]
    labels: File | None = file_field("folder with the label file of each split")
    images: File | None = file_field("folder with the images")
    strictness: Strictness = "official"

    def needed(self) -> list[Path]:
        return [self.file("labels")]

    def lacking(self) -> str:
        return super().lacking() or missing_labels(self.file("labels"), self.variant)

    def build(self) -> Benchmark:
        """Read the label files, which are the questions, too."""
        normalized = self.strictness == "normalized"
        return Pope(
            None, self.file("labels"), self.image_folder(), normalized=normalized, variant=self.variant
        )


class PopeAOKVQAConfig(_LabelsOnlyConfig):
    """POPE on A-OKVQA's images, which are COCO's"""

    layout: ClassVar = {"labels": "pope/aokvqa", "images": "pope/val2014"}
    variant: ClassVar = A_OKVQA
    type: Literal["pope-aokvqa"] = "pope-aokvqa"


class PopeGQAConfig(_LabelsOnlyConfig):
    """POPE on GQA's images"""

    layout: ClassVar = {"labels": "pope/gqa", "images": "gqa/data/images"}
    variant: ClassVar = GQA
    type: Literal["pope-gqa"] = "pope-gqa"


class Pope(Benchmark):
    """The headline is LLaVA's: the mean of the three splits' F1, each 2TP / (2TP + FP + FN)."""

    def __init__(
        self,
        path: Path | None,
        labels: Path,
        images: ImageFolder,
        *,
        normalized: bool = False,
        variant: Variant = COCO,
    ) -> None:
        """`path` is LLaVA's question file; without it, the label files' own questions are asked."""
        asked = read_questions(path) if path else {}
        self.labels = read_labels(labels, variant)
        self.asked = asked or official_questions(self.labels)
        check_labels(self.asked, self.labels)
        self.normalized = normalized
        self.score_split = partial(score_split, normalized=normalized)
        # most answers are one of a few texts
        self.score_one = lru_cache(maxsize=4096)(lambda text, truth: self.score_split([(text, truth)]))
        super().__init__(
            f"{variant.name}@{self.labels.revision} mean-F1",
            (
                benchmark.Question(
                    q.id, q.prompt, images.path(q.key[0], f"{path or labels}: question {q.id}")
                )
                for q in self.asked.values()
            ),
            expected=len(self.labels),
            files=({path.name: path} if path else {}) | self.labels.files,
            warnings=_label_warnings(self.labels, variant),
        )

    def allowed_answers(self, key: str) -> Sequence[str]:
        return "yes", "no"

    def chance(self, keys: Sequence[str]) -> Chance:
        """Always "yes", whose F1 is 2p / (1 + p) at a share p of positive questions: 66.7 for p = 1/2.

        "no" has the F1 0, and a uniform guess 50: F1, unlike accuracy, rewards a model that says yes to all.
        """
        return self.best_constant(keys, ("yes",))

    def verdict(self, key: str, text: str) -> Verdict:
        question = self.asked[key]
        truth = self.labels.truth[question.split][question.key]
        score = self.score_one(text, truth)
        hit = bool(score.accuracy)
        return Verdict(hit, _word(truth), "" if self.normalized and score.unclear else _word(truth == hit))

    def score(self, answers: Mapping[str, str]) -> Score:
        pairs: dict[str, list[tuple[str, bool]]] = {split: [] for split in SPLITS}
        units: dict[str, dict[str, tuple[float, float]]] = {}
        members: dict[str, list[str]] = {}
        for key, text in answers.items():
            question = self.asked[key]
            truth = self.labels.truth[question.split][question.key]
            weight = self.labels.weight(question.split, question.key)
            pairs[question.split] += [(text, truth)] * weight
            members.setdefault(question.key[0], []).append(key)
            unit = units.setdefault(question.key[0], {})
            _add(unit, question.split, self.score_one(text, truth), weight)
        scores = {split: self.score_split(answered) for split, answered in pairs.items() if answered}
        rows = {split: _figures(score) for split, score in scores.items()}
        return Score(
            Headline("mean F1", units, members=members),
            rows | ({"mean": mean_figures(rows)} if rows else {}),
            {"read as yes without saying so": sum(s.unclear for s in scores.values())},
            _warnings(scores),
        )


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _add(unit: dict[str, tuple[float, float]], split: str, score: SplitScore, weight: int = 1) -> None:
    """Add `weight` times a score to an image's bootstrap unit: the three splits ask about the same images."""
    right, of = unit.get(split, (0, 0))
    unit[split] = right + weight * 2 * score.tp, of + weight * (2 * score.tp + score.fp + score.fn)


def check_labels(questions: Mapping[str, Question], labels: Labels) -> None:
    """Refuse questions without a label; labels without a question make a run partial."""
    faults = []
    for split in SPLITS:
        asked, known = {q.key for q in questions.values() if q.split == split}, labels.truth[split].keys()
        if unlabelled := len(asked - known):
            faults.append(
                f"  {split}: {unlabelled} of {len(asked)} questions without a label, "
                f"{len(known - asked)} of {len(known)} labels without a question"
            )
    if faults:
        raise UserError(
            "questions and labels do not belong together (joined by image and question):",
            *faults,
            f"  these labels are POPE revision {labels.revision}; LLaVA's questions belong to {COCO.published}",
        )


def _figures(score: SplitScore) -> dict[str, float | int]:
    return {
        "n": score.total,
        "accuracy": score.accuracy,
        "precision": score.precision,
        "recall": score.recall,
        "F1": score.f1,
        "yes ratio": score.yes_ratio,
    }


def _label_warnings(labels: Labels, variant: Variant) -> list[str]:
    warnings = [f"not read, since no split of POPE: {name}" for name in labels.other]
    if labels.revision != variant.published:
        warnings.append(f"labels of revision {labels.revision}; published figures use {variant.published}")
    for split, keys in labels.repeated.items():
        warnings += [f"{split}: {key[1]!r} on {key[0]} counts {n} times" for key, n in keys.items()]
    return warnings


def _warnings(scores: Mapping[str, SplitScore]) -> list[str]:
    warnings = [
        f"{split}: {', '.join(s.undefined)} undefined (division by zero), counted as 0"
        for split, s in scores.items()
        if s.undefined
    ]
    if absent := [split for split in SPLITS if split not in scores]:
        warnings.append(f"nothing answered of {', '.join(absent)}: the mean is over the other splits")
    return warnings
