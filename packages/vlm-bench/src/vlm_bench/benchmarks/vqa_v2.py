"""VQA-v2: val is scored here, test-dev on a server that wants answers for all of test2015."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_bench.check import check_ids
from vlm_bench.configs import VQAv2Config
from vlm_bench.readers.answers import unique
from vlm_bench.readers.files import json_rows
from vlm_bench.readers.questions import SHORT, read_questions
from vlm_bench.readers.row import Row
from vlm_bench.scorers.vqa import by_count, convert, soft_accuracy
from vlm_core.benchmark import Benchmark, Question, Score, Verdict, mean_headline
from vlm_core.errors import UserError

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
        path, images = config.file("questions", "test-dev"), config.file("images", "test-dev")
        self.ids, self.llava = config.file("ids"), config.answer_format == "llava"
        super().__init__(
            "llava-1.5/vqa-v2-test-dev",
            (Question(q.id, q.text, images / q.image) for q in read_questions(path)),
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
    if not key.isdecimal():
        raise UserError(f"question_id {key!r} is no number, as VQA-v2's ids are")
    return int(key)


class Val(Benchmark):
    """The official soft accuracy, of answers as LLaVA's conversion submits them and as they are."""

    def __init__(self, config: VQAv2Config) -> None:
        path, labels, images = (
            config.file("questions", "val"), config.file("labels"), config.file("images", "val")
        )  # fmt: skip
        asked = _by_id(path, "questions")
        self.gold = {key: _gold(row) for key, row in _by_id(labels, "annotations").items()}
        check_ids(asked.keys(), self.gold.keys(), labels)
        self.format, self.sane = config.answer_format, config.strictness == "sane"
        super().__init__(
            f"vqa-v2-val official@a013f00, {self.format} answers",
            (_question(key, row, images) for key, row in asked.items()),
            expected=len(self.gold),
            files={path.name: path, labels.name: labels},
            notes={"answers": self.format},
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        credits = {
            "llava": {key: self._credit(key, convert(text)) for key, text in answers.items()},
            "raw": {key: self._credit(key, text) for key, text in answers.items()},
        }
        rows = {"all": _row(credits, list(answers))}
        for kind in KINDS:
            rows[kind] = _row(credits, [key for key in answers if self.gold[key]["kind"] == kind])
        return Score(mean_headline("accuracy", credits[self.format]), rows)

    def verdict(self, key: str, text: str) -> Verdict:
        said = convert(text) if self.format == "llava" else text
        return Verdict(self._credit(key, said), by_count(self.gold[key]["answers"]), said)

    def _credit(self, key: str, text: str) -> float:
        return soft_accuracy(text, self.gold[key]["answers"], always_normalise=self.sane)


def _row(credits: Mapping[str, Mapping[str, float]], keys: list[str]) -> dict[str, float | int]:
    figures: dict[str, float | int] = {"n": len(keys)}
    for name, credit in credits.items():
        figures[f"accuracy ({name})"] = sum(credit[key] for key in keys) / (len(keys) or 1)
    return figures


def _by_id(path: Path, key: str) -> dict[str, Row]:
    return unique([(row.id("question_id"), row) for row in json_rows(path, key)], "question_id")


def _question(key: str, row: Row, images: Path) -> Question:
    name = f"COCO_val2014_{int(row.id('image_id')):012d}.jpg"
    return Question(key, f"{row.text('question')}\n{SHORT}", images / name)


def _gold(row: Row) -> dict[str, Any]:
    answers = row.data.get("answers")
    if not isinstance(answers, list) or not all(isinstance(a, dict) for a in answers):
        raise UserError(f"{row.where}: 'answers' must be a list of objects with 'answer'")
    texts = [Row(row.where, a).text("answer") for a in answers]
    if len(texts) != 10:
        raise UserError(f"{row.where}: {len(texts)} reference answers, expected 10")
    if (kind := row.text("answer_type")) not in KINDS:
        raise UserError(f"{row.where}: unknown answer_type {kind!r}")
    return {"answers": texts, "kind": kind}
