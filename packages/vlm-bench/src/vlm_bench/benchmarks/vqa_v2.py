"""VQA-v2: val is scored here, test-dev on a server that wants answers for all of test2015."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from vlm_bench.check import check_ids
from vlm_bench.configs import VQAv2Config
from vlm_bench.readers.answers import unique
from vlm_bench.readers.files import json_rows
from vlm_bench.readers.json_object import Row
from vlm_bench.readers.questions import SHORT, read_questions
from vlm_bench.scorers.vqa import References, by_count, convert, normalise
from vlm_core.benchmark import Benchmark, Question, Score, Verdict, mean_headline
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder

KINDS = ("yes/no", "number", "other")


def build(config: VQAv2Config) -> Benchmark:
    """Read and join. test-dev has 107,394 questions, test2015 447,793, val 214,354."""
    return Val(config) if config.split == "val" else DevServer(config)


class DevServer(Benchmark):
    """Questions without public answers: only a submission can be made."""

    scored_by = "server"
    submission_notes = (
        "upload it to EvalAI, challenge 830, phase test-dev; the server then shows about 0 for test-standard, "
        "whose questions have empty answers",
    )

    def __init__(self, config: VQAv2Config) -> None:
        path, images = config.file("questions", "test-dev"), config.image_folder("images", "test-dev")
        self.ids, self.llava = config.file("ids"), config.answer_format == "llava"
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

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """All of test2015, "" where nothing was asked; so the server shows about 0 for test-standard."""
        known = [q.id for q in read_questions(self.ids)]
        check_ids(list(self.questions), set(known), self.ids, "place in test2015")
        said = {key: convert(text) if self.llava else text for key, text in answers.items()}
        rows = [{"question_id": _number(key), "answer": said.get(key, "")} for key in known]
        return {"vqav2_test2015.json": json.dumps(rows).encode()}


def _number(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 20):
        raise UserError(f"question_id {key!r} is no number, as VQA-v2's ids are")
    return int(key)


class Val(Benchmark):
    """The official soft accuracy, of answers as LLaVA's conversion submits them and as they are."""

    def __init__(self, config: VQAv2Config) -> None:
        path, labels, images = (
            config.file("questions", "val"), config.file("labels"), config.image_folder("images", "val")
        )  # fmt: skip
        asked = _by_id(path, "questions")
        gold = _by_id(labels, "annotations")
        check_ids(asked.keys(), gold.keys(), labels)
        _check_images(asked, gold, labels)
        self.format, sane = config.answer_format, config.strictness == "sane"
        normal = lru_cache(maxsize=None)(normalise)
        self.kinds = {key: row.one_of("answer_type", KINDS) for key, row in gold.items()}
        self.gold = {key: References(_texts(row), normal, always_normalise=sane) for key, row in gold.items()}
        super().__init__(
            f"vqa-v2-val official@a013f00, {self.format} answers",
            (_question(key, row, images) for key, row in asked.items()),
            expected=len(self.gold),
            files={path.name: path, labels.name: labels},
            notes={"answers": self.format},
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        credits = {
            "llava": {key: self.gold[key].credit(convert(text)) for key, text in answers.items()},
            "raw": {key: self.gold[key].credit(text) for key, text in answers.items()},
        }
        rows = {"all": _row(credits, list(answers))}
        for kind in KINDS:
            rows[kind] = _row(credits, [key for key in answers if self.kinds[key] == kind])
        return Score(mean_headline("accuracy", credits[self.format]), rows)

    def verdict(self, key: str, text: str) -> Verdict:
        said = convert(text) if self.format == "llava" else text
        return Verdict(self.gold[key].credit(said), self.right(key), said)

    def right(self, key: str) -> str:
        return by_count(self.gold[key].texts)


def _row(credits: Mapping[str, Mapping[str, float]], keys: list[str]) -> dict[str, float | int]:
    figures: dict[str, float | int] = {"n": len(keys)}
    for name, credit in credits.items():
        figures[f"accuracy ({name})"] = sum(credit[key] for key in keys) / (len(keys) or 1)
    return figures


def _by_id(path: Path, key: str) -> dict[str, Row]:
    return unique([(row.id("question_id"), row) for row in json_rows(path, key)], "question_id")


def _question(key: str, row: Row, images: ImageFolder) -> Question:
    if not (number := row.id("image_id")).isdecimal():
        row.wrong("image_id", "a whole number")
    name = f"COCO_val2014_{number.zfill(12)}.jpg"
    return Question(key, f"{row.text('question')}\n{SHORT}", images.path(name, row.where))


def _texts(row: Row) -> list[str]:
    answers = row.items("answers", dict, "a list of objects with 'answer'")
    texts = [answer.get("answer") for answer in answers]
    if not all(isinstance(text, str) for text in texts):
        texts = [Row(f"{row.where}: answer number {n}", a).text("answer") for n, a in enumerate(answers, 1)]
    if len(texts) != 10:
        raise UserError(f"{row.where}: {len(texts)} reference answers, expected 10")
    return texts


def _check_images(asked: Mapping[str, Row], gold: Mapping[str, Row], labels: Path) -> None:
    """Refuse annotations that belong to other images than the questions of their ids."""
    other = [key for key, row in asked.items() if row.id("image_id") != gold[key].id("image_id")]
    if other:
        key = other[0]
        raise UserError(
            f"{labels}: {len(other)} of {len(asked)} annotations are of another image than the question of that id, "
            f"first {key}: image {gold[key].id('image_id')} where {asked[key].id('image_id')} is asked about"
        )
