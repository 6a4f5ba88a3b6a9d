"""VizWiz: val is scored here, test on a server. Official files, or LLaVA's question file of the test set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import ON_A_SERVER, File, ImagesConfig, Source, Strictness, file_field
from vlm_bench.benchmarks.vizwiz.files import ANSWER_TYPES, label, question, read_rows
from vlm_bench.benchmarks.vizwiz.scoring import CountedReferences, detection, says_unanswerable
from vlm_bench.files.label_checks import check_count
from vlm_bench.files.questions import read_questions
from vlm_bench.scoring.answer_formats import AnswerFormat, accuracies, credits_by_format, submitted_text
from vlm_bench.scoring.vqa import by_count, convert, highest_sums, normalise, one_line
from vlm_core.benchmark import Benchmark, Chance, Question, Score, Verdict, mean_headline
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder

COUNTS = {"val": 4319, "test": 8000}


class VizWizConfig(ImagesConfig):
    """VizWiz: val, scored here, or test, scored on a server"""

    layout: ClassVar = {
        "questions.val": "vizwiz/val.json",
        "questions.test": "vizwiz/llava_test.jsonl",
        "questions.test-official": "vizwiz/test.json",
        "images.val": "vizwiz/val",
        "images.test": "vizwiz/test",
    }
    type: Literal["vizwiz"] = "vizwiz"
    split: Literal["val", "test"] = Field(default="val", description="which questions")
    source: Source = "llava"
    questions: File | None = file_field(
        "val.json with labels; test: llava_test.jsonl or, official, test.json"
    )
    images: File | None = file_field("folder with the images of the split")
    answer_format: AnswerFormat = Field(
        default="llava", description="score answers as LLaVA's conversion submits them, or as they are"
    )
    strictness: Strictness = "official"

    def needed(self) -> list[Path]:
        return [self._questions()]

    def _questions(self) -> Path:
        official = self.split == "test" and self.source == "official"
        return self.file("questions", "test-official" if official else self.split)

    def build(self) -> Benchmark:
        """Read the files. val has 4,319 questions, test 8,000, each about an image of its own."""
        path, images = self._questions(), self.image_folder("images", self.split)
        if self.split == "test":
            return VizWizTest(path, images, self.answer_format, official=self.source == "official")
        return VizWizVal(path, images, self.answer_format, normalized=self.strictness == "normalized")


class VizWizTest(Benchmark):
    """Questions without public answers: only a submission can be made."""

    scored_by = "server"
    submission_notes = ("upload it to EvalAI, VizWiz's challenge 2185",)

    def __init__(
        self, path: Path, images: ImageFolder, answer_format: AnswerFormat, *, official: bool = False
    ) -> None:
        """`path` is LLaVA's question file or, where `official`, `test.json`. Answers may have the image as id."""
        rows = [question(*item) for item in read_rows(path).items()] if official else read_questions(path)
        self.asked = {q.id: q for q in rows}
        self.answer_format: AnswerFormat = answer_format
        other, warnings = check_count(len(rows), COUNTS["test"], "questions")
        super().__init__(
            f"llava-1.5/vizwiz-test{other}",
            (Question(q.id, q.text, images.path(q.image, q.where), other_ids=(q.image,)) for q in rows),
            files={path.name: path},
            warnings=warnings,
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        raise UserError(
            "the answers of VizWiz test are not public: `vlm-bench submit vizwiz --split test` writes the file for "
            "EvalAI (challenge 2185); --split val is scored here"
        )

    def chance(self, keys: Sequence[str]) -> Chance:
        return ON_A_SERVER

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """`[{image, answer}]`, as LLaVA's script writes it."""
        rows = [
            {"image": self.asked[key].image, "answer": submitted_text(text, self.answer_format)}
            for key, text in answers.items()
        ]
        return {"vizwiz_test.json": json.dumps(rows).encode()}


class VizWizVal(Benchmark):
    """VizWiz's soft accuracy, of answers as LLaVA's conversion submits them and as they are; ids are the images."""

    def __init__(
        self, path: Path, images: ImageFolder, answer_format: AnswerFormat, *, normalized: bool = False
    ) -> None:
        rows = read_rows(path)
        self.answer_format: AnswerFormat = answer_format
        self.labels = {image: label(row) for image, row in rows.items()}
        cached = lru_cache(maxsize=None)(normalise)
        self.references = {
            image: CountedReferences(label.references, cached, always_normalise=normalized)
            for image, label in self.labels.items()
        }
        other, warnings = check_count(len(rows), COUNTS["val"], "questions")
        asked = [question(image, row) for image, row in rows.items()]
        super().__init__(
            f"vizwiz-val{other}, {answer_format} answers",
            (Question(q.id, q.text, images.path(q.image, q.where)) for q in asked),
            files={path.name: path},
            notes={"answers": answer_format},
            warnings=warnings,
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        credits = credits_by_format(answers, lambda image, text: self.references[image].credit(text))
        rows = {"all": accuracies(credits, answers)}
        for kind in ANSWER_TYPES:
            rows[kind] = accuracies(credits, [i for i in answers if self.labels[i].answer_type == kind])
        predicted = [says_unanswerable(convert(text)) for text in answers.values()]
        figures = detection(predicted, [not self.labels[image].answerable for image in answers])
        rows["unanswerable questions"] = {"n": len(answers), **figures}
        return Score(mean_headline("accuracy", credits[self.answer_format]), rows)

    def chance(self, keys: Sequence[str]) -> Chance:
        """The best constant answer, "unanswerable" in the official data.

        References are compared as they are, so an answer equal to one, such as "Yes", may match another one only.
        """
        counts = (self.references[key].counts for key in keys)
        return self.best_constant(keys, highest_sums(counts, self._compared))

    def _compared(self, answer: str) -> str:
        return normalise(one_line(submitted_text(answer, self.answer_format)))

    def verdict(self, key: str, text: str) -> Verdict:
        submitted = submitted_text(text, self.answer_format)
        return Verdict(self.references[key].credit(submitted), self.right(key), submitted)

    def right(self, key: str) -> str:
        return by_count(self.labels[key].references)
