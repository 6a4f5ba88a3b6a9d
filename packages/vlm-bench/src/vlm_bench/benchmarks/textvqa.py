"""TextVQA: LLaVA's question file and the official annotations, joined by image and question.

LLaVA's file names a question by its image, which several share, so our ids are `image/question`; the official
script cuts the question from the logged prompt and fails on a prompt of another number of lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from vlm_bench.check import check_ids
from vlm_bench.configs import TextVQAConfig
from vlm_bench.readers.answers import unique
from vlm_bench.readers.files import json_rows
from vlm_bench.readers.json_object import Row
from vlm_bench.readers.questions import Asked, asked, read_questions
from vlm_bench.readers.textvqa import TOKENS, Prompt, read_prompt, without_tokens
from vlm_bench.scorers.vqa import ConvertedReferences, by_count, convert
from vlm_core.benchmark import Benchmark, CreditBenchmark, Question
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder
from vlm_core.text.messages import IMAGE_PLACEHOLDER

REFERENCES = 10


def build(config: TextVQAConfig) -> Benchmark:
    """Read and join. The validation set has 5,000 questions about 3,166 images."""
    return TextVQA(config)


class TextVQA(CreditBenchmark):
    """Soft accuracy by M4C's rule, as LLaVA evaluates."""

    def __init__(self, config: TextVQAConfig) -> None:
        path, labels, images = config.file("questions"), config.file("labels"), config.image_folder()
        official, self.config = config.source == "official", config
        tokens = config.file("tokens") if official and config.ocr == "yes" else None
        found = _official(path, tokens) if official else _llava(path)
        converted = lru_cache(maxsize=None)(convert)
        self.gold = {key: ConvertedReferences(r, converted) for key, r in read_labels(labels).items()}
        check_ids(found.keys(), self.gold.keys(), labels)
        prompts = {key: _prompt(q, config.ocr) for key, q in found.items()}
        variant = _variant(prompts) + (f" of {tokens.name}" if tokens else "")
        super().__init__(
            f"llava-1.5/textvqa-val m4c, {variant}",
            (_question(key, q, prompts[key], images) for key, q in found.items()),
            expected=len(self.gold),
            files={file.name: file for file in (path, labels, tokens) if file},
            notes={"prompt": variant},
        )

    def as_asked(self, prompts: Sequence[str]) -> Benchmark:
        """Without OCR tokens if no logged prompt has any, unless the user chose."""
        read = [
            found for text in prompts if (found := read_prompt(text.replace(IMAGE_PLACEHOLDER, "").strip()))
        ]
        bare = bool(read) and not any(found.tokens for found in read)
        if bare and self.config.ocr == "yes" and "ocr" not in self.config.model_fields_set:
            return TextVQA(self.config.model_copy(update={"ocr": "no"}))
        return self

    def credit(self, key: str, text: str) -> float:
        return self.gold[key].credit(text)

    def right(self, key: str) -> str:
        return by_count(self.gold[key].texts)

    def same_prompt(self, question: Question, logged: str) -> bool:
        """Whatever form of prompt asked it, with or without OCR tokens as here."""
        seen, asked = (
            read_prompt(text.replace(IMAGE_PLACEHOLDER, "").strip()) for text in (logged, question.prompt)
        )
        if seen is None or asked is None:
            return super().same_prompt(question, logged)
        return (seen.question.lower(), seen.tokens) == (asked.question.lower(), asked.tokens)


def _question(key: str, q: Asked, prompt: str, images: ImageFolder) -> Question:
    image = images.path(q.image, q.where)
    return Question(key, prompt, image, alias=q.id, other_ids=(PurePosixPath(q.image).stem,))


def _llava(path: Path) -> dict[str, Asked]:
    rows = [(_key(q.id, _read(q).question), q) for q in read_questions(path, distinct=False)]
    found = dict(rows)
    if len(found) != len(rows):
        key = next(key for key, count in Counter(key for key, _ in rows).items() if count > 1)
        raise UserError(f"{path}: {len(rows) - len(found)} questions appear twice, first {key}")
    return found


def _read(q: Asked) -> Prompt:
    if (found := read_prompt(q.text)) is None:
        raise UserError(f"{q.where}: 'text' is {q.text!r:.80}, none of LLaVA's prompt formats for TextVQA")
    return found


def _official(path: Path, tokens: Path | None = None) -> dict[str, Asked]:
    """The annotations' questions as LLaVA asks them, with each image's OCR tokens if their file is given."""
    seen = {} if tokens is None else read_tokens(tokens)
    found: dict[str, Asked] = {}
    for row in json_rows(path, "data"):
        image, question = row.id("image_id"), row.text("question")
        if tokens is not None and image not in seen:
            raise UserError(f"{tokens}: no OCR tokens of image {image}; is this the validation set's file?")
        lines = [question, *([f"{TOKENS} {', '.join(seen[image])}"] if tokens else [])]
        found[_key(image, question)] = asked(
            row.id("question_id"), f"{image}.jpg", "\n".join(lines), row.where
        )
    return found


def read_tokens(path: Path) -> dict[str, list[str]]:
    """The words that an OCR system saw in each image, by image id."""
    rows = unique([(row.id("image_id"), row) for row in json_rows(path, "data")], "image_id")
    return {key: _tokens(row) for key, row in rows.items()}


def _tokens(row: Row) -> list[str]:
    found = row.data.get("ocr_tokens")
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise UserError(f"{row.where}: 'ocr_tokens' must be a list of texts")
    return found


def _key(image: str, question: str) -> str:
    return f"{image}/{question.lower()}"


def read_labels(path: Path) -> dict[str, list[str]]:
    """The ten references of each question."""
    rows = [(_key(row.id("image_id"), row.text("question")), row) for row in json_rows(path, "data")]
    return {key: _references(row) for key, row in unique(rows, "the question").items()}


def _references(row: Row) -> list[str]:
    found = row.data.get("answers")
    if not isinstance(found, list) or len(found) != REFERENCES or not all(isinstance(a, str) for a in found):
        raise UserError(f"{row.where}: 'answers' must hold {REFERENCES} texts; is this the test set?")
    return found


def _prompt(asked: Asked, ocr: Literal["yes", "no"]) -> str:
    return asked.text if ocr == "yes" else without_tokens(asked.text)


def _variant(prompts: Mapping[str, str]) -> str:
    """How many prompts name the OCR tokens decides much of the figure: 61.3 with, 48.7 without."""
    count = sum(prompt is not None and prompt.tokens for prompt in map(read_prompt, prompts.values()))
    if count in (0, len(prompts)):
        return "with OCR tokens" if count else "without OCR tokens"
    return f"with OCR tokens in {count} of {len(prompts)} prompts"
