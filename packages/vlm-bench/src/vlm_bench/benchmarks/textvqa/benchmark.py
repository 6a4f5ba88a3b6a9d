"""TextVQA: LLaVA's question file and the official annotations, joined by image and question.

LLaVA's file names a question by its image, which several share, so our ids are `image/question`. The official
script extracts the question from the logged prompt and fails on a prompt with another number of lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from pydantic import Field

from vlm_bench.benchmarks.layout import File, ImagesConfig, Source, file_field
from vlm_bench.benchmarks.textvqa.files import llava_questions, official_questions, read_labels
from vlm_bench.benchmarks.textvqa.prompts import Prompt, read_prompt, without_tokens
from vlm_bench.benchmarks.textvqa.scoring import ConvertedReferences
from vlm_bench.files.label_checks import check_ids
from vlm_bench.files.questions import Asked
from vlm_bench.scoring.vqa import by_count, convert, highest_sums
from vlm_core.benchmark import Benchmark, CreditBenchmark, Question
from vlm_core.io.image_folder import ImageFolder
from vlm_core.placeholders import IMAGE_PLACEHOLDER

Ocr = Literal["yes", "no"]


class TextVQAConfig(ImagesConfig):
    """TextVQA: the validation set, with OCR tokens in the prompt by default"""

    layout: ClassVar = {
        "questions": "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        "questions.official": "textvqa/TextVQA_0.5.1_val.json",
        "tokens": "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json",
        "labels": "textvqa/TextVQA_0.5.1_val.json",
        "images": "textvqa/train_images",
    }
    type: Literal["textvqa"] = "textvqa"
    source: Source = "llava"
    questions: File | None = file_field("llava_textvqa_val_v051_ocr.jsonl, or the file that holds the labels")
    labels: File | None = file_field("TextVQA_0.5.1_val.json")
    images: File | None = file_field("folder with the images")
    ocr: Ocr = Field(default="yes", description="keep the OCR tokens in the prompt, or drop them")
    tokens: File | None = file_field(
        "official: TextVQA_Rosetta_OCR_v0.2_val.json, the OCR tokens of each image"
    )

    def needed(self) -> list[Path]:
        tokens = self.source == "official" and self.ocr == "yes"
        return [self.file("questions"), self.file("labels"), *([self.file("tokens")] if tokens else [])]

    def build(self) -> Benchmark:
        """Read and join. The validation set has 5,000 questions about 3,166 images."""
        official = self.source == "official"
        return TextVQA(
            self.file("questions"),
            self.file("labels"),
            self.image_folder(),
            official=official,
            tokens=self.file("tokens") if official else None,
            ocr=self.ocr if "ocr" in self.model_fields_set else None,
        )


class TextVQA(CreditBenchmark):
    """Soft accuracy by M4C's rule, as LLaVA evaluates."""

    def __init__(
        self,
        path: Path,
        labels: Path,
        images: ImageFolder,
        *,
        official: bool = False,
        tokens: Path | None = None,
        ocr: Ocr | None = None,
    ) -> None:
        """`path` holds LLaVA's questions or, where `official`, the annotations; `tokens` the latter's OCR tokens.

        `ocr` None keeps the OCR tokens unless the logged prompts of the answers have none.
        """
        self.rebuild = partial(TextVQA, path, labels, images, official=official, tokens=tokens)
        self.ocr = ocr
        tokens = None if ocr == "no" else tokens
        asked = official_questions(path, tokens) if official else llava_questions(path)
        cached = lru_cache(maxsize=None)(convert)
        self.references = {key: ConvertedReferences(r, cached) for key, r in read_labels(labels).items()}
        check_ids(asked.keys(), self.references.keys(), labels)
        prompts = {key: without_tokens(q.text) if ocr == "no" else q.text for key, q in asked.items()}
        variant = _variant(prompts) + (f" of {tokens.name}" if tokens else "")
        super().__init__(
            f"llava-1.5/textvqa-val m4c, {variant}",
            (_question(key, q, prompts[key], images) for key, q in asked.items()),
            expected=len(self.references),
            files={file.name: file for file in (path, labels, tokens) if file},
            notes={"prompt": variant},
        )

    def as_asked(self, prompts: Sequence[str]) -> Benchmark:
        """Without OCR tokens if no logged prompt has any, unless the user chose."""
        logged = [prompt for text in prompts if (prompt := _read_logged(text))]
        if self.ocr is None and logged and not any(prompt.tokens for prompt in logged):
            return self.rebuild(ocr="no")
        return self

    def credit(self, key: str, text: str) -> float:
        return self.references[key].credit(text)

    def right(self, key: str) -> str:
        return by_count(self.references[key].texts)

    def constant_answers(self, keys: Sequence[str]) -> Sequence[str]:
        return highest_sums(self.references[key].counts for key in keys)

    def same_prompt(self, question: Question, logged: str) -> bool:
        """Whether both ask the same question, in any of the prompt formats, and both have OCR tokens or neither."""
        answered, asked = _read_logged(logged), _read_logged(question.prompt)
        if answered is None or asked is None:
            return super().same_prompt(question, logged)
        return (answered.question.lower(), answered.tokens) == (asked.question.lower(), asked.tokens)


def _read_logged(text: str) -> Prompt | None:
    return read_prompt(text.replace(IMAGE_PLACEHOLDER, "").strip())


def _question(key: str, q: Asked, prompt: str, images: ImageFolder) -> Question:
    image = images.path(q.image, q.where)
    return Question(key, prompt, image, alias=q.id, other_ids=(PurePosixPath(q.image).stem,))


def _variant(prompts: Mapping[str, str]) -> str:
    """How many prompts have OCR tokens, which affect the figure much: 61.3 with, 48.7 without."""
    count = sum(prompt is not None and prompt.tokens for prompt in map(read_prompt, prompts.values()))
    if count in (0, len(prompts)):
        return "with OCR tokens" if count else "without OCR tokens"
    return f"with OCR tokens in {count} of {len(prompts)} prompts"
