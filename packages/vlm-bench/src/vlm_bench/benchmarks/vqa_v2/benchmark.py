"""VQA-v2: val is scored here, test-dev on a server that wants answers for all of test2015."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import ON_A_SERVER, File, ImagesConfig, Strictness, file_field
from vlm_bench.benchmarks.vqa_v2.files import ANSWER_TYPES, check_images, question, read_rows, references
from vlm_bench.benchmarks.vqa_v2.scoring import References
from vlm_bench.files.label_checks import check_ids
from vlm_bench.files.questions import read_questions
from vlm_bench.scoring.answer_formats import AnswerFormat, accuracies, credits_by_format, submitted_text
from vlm_bench.scoring.vqa import by_count, highest_sums, normalise
from vlm_core.benchmark import Benchmark, Chance, Headline, Question, Score, Verdict, mean_headline
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder


class VQAv2Config(ImagesConfig):
    """VQA-v2: test-dev, which is scored on a server, or val, which is scored here"""

    layout: ClassVar = {
        "questions.test-dev": "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        "questions.val": "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        "labels": "vqav2/v2_mscoco_val2014_annotations.json",
        "ids": "vqav2/llava_vqav2_mscoco_test2015.jsonl",
        "images.test-dev": "vqav2/test2015",
        "images.val": "vqav2/val2014",
    }
    type: Literal["vqa-v2"] = "vqa-v2"
    split: Literal["test-dev", "val"] = Field(default="test-dev", description="which questions")
    questions: File | None = file_field("LLaVA's questions (test-dev) or the official ones (val)")
    labels: File | None = file_field("val: v2_mscoco_val2014_annotations.json")
    ids: File | None = file_field("test-dev: the questions of all of test2015, which a submission must hold")
    images: File | None = file_field("folder with test2015 or val2014")
    answer_format: AnswerFormat = Field(
        default="llava", description="score answers as LLaVA's conversion submits them, or as they are"
    )
    strictness: Strictness = "official"

    def needed(self) -> list[Path]:
        return [self.file("questions", self.split), *([self.file("labels")] if self.split == "val" else [])]

    def build(self) -> Benchmark:
        """Read and join. test-dev has 107,394 questions, test2015 447,793, val 214,354."""
        if self.split == "test-dev":
            return TestDev(
                self.file("questions", "test-dev"),
                self.file("ids"),
                self.image_folder("images", "test-dev"),
                self.answer_format,
            )
        return Val(
            self.file("questions", "val"),
            self.file("labels"),
            self.image_folder("images", "val"),
            self.answer_format,
            normalized=self.strictness == "normalized",
        )


class TestDev(Benchmark):
    """Questions without public answers: only a submission can be made."""

    scored_by = "server"
    submission_notes = (
        "upload it to EvalAI, challenge 830, phase test-dev; the server then shows about 0 for test-standard, "
        "whose questions have empty answers",
    )

    def __init__(self, path: Path, ids: Path, images: ImageFolder, answer_format: AnswerFormat) -> None:
        """`ids` is a file with all questions of test2015, which a submission must hold."""
        self.ids = ids
        self.answer_format: AnswerFormat = answer_format
        super().__init__(
            "llava-1.5/vqa-v2-test-dev",
            (Question(q.id, q.text, images.path(q.image, q.where)) for q in read_questions(path)),
            files={path.name: path},
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        raise UserError(
            "the answers of VQA-v2 test-dev are not public: `vlm-bench submit vqa-v2` writes the file for "
            "EvalAI (challenge 830, phase test-dev); --split val is scored here"
        )

    def chance(self, keys: Sequence[str]) -> Chance:
        return ON_A_SERVER

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """All of test2015, "" where nothing was asked; so the server shows about 0 for test-standard."""
        known = [q.id for q in read_questions(self.ids)]
        check_ids(list(self.questions), set(known), self.ids, "place in test2015")
        submitted = {key: submitted_text(text, self.answer_format) for key, text in answers.items()}
        rows = [{"question_id": _number(key), "answer": submitted.get(key, "")} for key in known]
        return {"vqav2_test2015.json": json.dumps(rows).encode()}


def _number(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 20):
        raise UserError(f"question_id {key!r} is no number, as VQA-v2's ids are")
    return int(key)


class Val(Benchmark):
    """The official soft accuracy, of answers as LLaVA's conversion submits them and as they are."""

    def __init__(
        self,
        path: Path,
        labels: Path,
        images: ImageFolder,
        answer_format: AnswerFormat,
        *,
        normalized: bool = False,
    ) -> None:
        asked, annotations = read_rows(path, "questions"), read_rows(labels, "annotations")
        check_ids(asked.keys(), annotations.keys(), labels)
        check_images(asked, annotations, labels)
        self.answer_format: AnswerFormat = answer_format
        cached = lru_cache(maxsize=None)(normalise)
        self.types = {key: row.one_of("answer_type", ANSWER_TYPES) for key, row in annotations.items()}
        self.references = {
            key: References(references(row), cached, always_normalise=normalized)
            for key, row in annotations.items()
        }
        super().__init__(
            f"vqa-v2-val official@a013f00, {answer_format} answers",
            (question(key, row, images) for key, row in asked.items()),
            expected=len(self.references),
            files={path.name: path, labels.name: labels},
            notes={"answers": answer_format},
        )

    def headline(self, answers: Mapping[str, str]) -> Headline:
        submitted = {text: submitted_text(text, self.answer_format) for text in set(answers.values())}
        credits = {key: self.references[key].credit(submitted[text]) for key, text in answers.items()}
        return mean_headline("accuracy", credits)

    def score(self, answers: Mapping[str, str]) -> Score:
        credits = credits_by_format(answers, lambda key, text: self.references[key].credit(text))
        rows = {"all": accuracies(credits, answers)}
        for answer_type in ANSWER_TYPES:
            rows[answer_type] = accuracies(
                credits, [key for key in answers if self.types[key] == answer_type]
            )
        return Score(mean_headline("accuracy", credits[self.answer_format]), rows)

    def chance(self, keys: Sequence[str]) -> Chance:
        """The best constant answer, "yes" in the official data."""
        candidates = highest_sums(self.references[key].counts for key in keys)
        return self.best_constant(keys, candidates)

    def verdict(self, key: str, text: str) -> Verdict:
        submitted = submitted_text(text, self.answer_format)
        return Verdict(self.references[key].credit(submitted), self.right(key), submitted)

    def right(self, key: str) -> str:
        return by_count(self.references[key].texts)
