"""TextVQA's files: LLaVA's questions, the official annotations and the OCR tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from vlm_bench.benchmarks.textvqa.prompts import TOKENS, Prompt, read_prompt
from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import json_rows
from vlm_bench.files.json_object import Row
from vlm_bench.files.questions import Asked, asked, read_questions
from vlm_core.errors import UserError

REFERENCES = 10


def question_key(image: str, question: str) -> str:
    """What joins a question with its label."""
    return f"{image}/{question.lower()}"


def llava_questions(path: Path) -> dict[str, Asked]:
    """The questions of LLaVA's file."""
    rows = [(question_key(q.id, _prompt(q).question), q) for q in read_questions(path, distinct=False)]
    questions = dict(rows)
    if len(questions) != len(rows):
        key = next(key for key, count in Counter(key for key, _ in rows).items() if count > 1)
        raise UserError(f"{path}: {len(rows) - len(questions)} questions appear twice, first {key}")
    return questions


def _prompt(question: Asked) -> Prompt:
    if (prompt := read_prompt(question.text)) is None:
        raise UserError(
            f"{question.where}: 'text' is {question.text!r:.80}, none of LLaVA's prompt formats for TextVQA"
        )
    return prompt


def official_questions(path: Path, tokens: Path | None = None) -> dict[str, Asked]:
    """The annotations' questions as LLaVA asks them, with each image's OCR tokens if their file is given."""
    words = {} if tokens is None else read_tokens(tokens)
    questions: dict[str, Asked] = {}
    for row in json_rows(path, "data"):
        image, question = row.id("image_id"), row.text("question")
        if tokens is not None and image not in words:
            raise UserError(f"{tokens}: no OCR tokens of image {image}; is this the validation set's file?")
        lines = [question, *([f"{TOKENS} {', '.join(words[image])}"] if tokens else [])]
        questions[question_key(image, question)] = asked(
            row.id("question_id"), f"{image}.jpg", "\n".join(lines), row.where
        )
    return questions


def read_tokens(path: Path) -> dict[str, list[str]]:
    """The words that an OCR system read in each image, by image id."""
    rows = unique([(row.id("image_id"), row) for row in json_rows(path, "data")], "image_id")
    return {key: _tokens(row) for key, row in rows.items()}


def _tokens(row: Row) -> list[str]:
    tokens = row.data.get("ocr_tokens")
    if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
        raise UserError(f"{row.where}: 'ocr_tokens' must be a list of texts")
    return tokens


def read_labels(path: Path) -> dict[str, list[str]]:
    """The ten reference answers of each question."""
    rows = [(question_key(row.id("image_id"), row.text("question")), row) for row in json_rows(path, "data")]
    return {key: _references(row) for key, row in unique(rows, "the question").items()}


def _references(row: Row) -> list[str]:
    texts = row.data.get("answers")
    if not isinstance(texts, list) or len(texts) != REFERENCES or not all(isinstance(a, str) for a in texts):
        raise UserError(f"{row.where}: 'answers' must hold {REFERENCES} texts; is this the test set?")
    return texts
