"""The plugin module: easy-VQA as a dataset and as a benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from vlm_core.benchmark import CreditBenchmark, Question
from vlm_core.io.files import read_text
from vlm_core.io.paths import LocalFile
from vlm_core.plugins import BenchmarkConfig, DatasetConfig, UserError, hookimpl

Category = Literal["shape", "colour", "yes/no"]
_SHAPES = {"circle", "rectangle", "triangle"}


def _category(answer: str) -> Category:
    return "yes/no" if answer in ("yes", "no") else "shape" if answer in _SHAPES else "colour"


def _home() -> Path:
    """The data folder of the package easy-vqa."""
    package = find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise UserError("easy-vqa's files are not installed: pip install easy-vqa")
    return Path(package.origin).parent / "data"


def _questions(folder: Path) -> list[tuple[str, str, int]]:
    """Question, answer and number of the image."""
    return json.loads(read_text(folder / "questions.json"))


class EasyVQAConfig(DatasetConfig):
    """easy-VQA (MIT): images of one coloured shape, questions with one-word answers, official split.

    `images: false` gives text only, for a first stage of the language model. `categories` selects questions. `turns` is
    the largest number of questions about an image in one conversation, as in LLaVA's own data.
    """

    type: Literal["easy-vqa"] = "easy-vqa"
    split: Literal["train", "test"] = Field(description="official split")
    images: bool = Field(default=True, description="false: rows without images")
    categories: list[Category] | None = Field(
        default=None, description="categories of questions; default: all"
    )
    turns: PositiveInt = Field(
        default=1, description="at most so many questions about an image in one conversation"
    )

    def rows(self) -> list[dict[str, Any]]:
        folder = _home() / self.split
        by_image: dict[int, list[tuple[str, str]]] = {}
        for question, answer, image in _questions(folder):
            if not self.categories or _category(answer) in self.categories:
                by_image.setdefault(image, []).append((question, answer))
        return [
            self._row(
                folder / "images" / f"{image}.png", f"{image}-{start}", asked[start : start + self.turns]
            )
            for image, asked in by_image.items()
            for start in range(0, len(asked), self.turns)
        ]

    def _row(self, image: Path, name: str, asked: list[tuple[str, str]]) -> dict[str, Any]:
        turns = [
            {"from": speaker, "value": value}
            for pair in asked
            for speaker, value in zip(("human", "gpt"), pair, strict=True)
        ]
        if self.images:
            turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        return {
            "id": f"{self.split}-{name}",
            "image": [str(image)] if self.images else [],
            "conversations": turns,
            "category": _category(asked[-1][1]),
        }


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [EasyVQAConfig]


class EasyVQA(CreditBenchmark):
    """The test questions. An answer is right if it equals the expected word, ignoring case and a final full stop."""

    max_new_tokens = 8

    def __init__(self, folder: Path) -> None:
        self.truth: dict[str, str] = {}
        questions: list[Question] = []
        per_image: Counter[int] = Counter()
        for text, answer, image in _questions(folder):
            key = f"test-{image}-{per_image[image]}"
            per_image[image] += 1
            self.truth[key] = answer
            questions.append(Question(key, text, folder / "images" / f"{image}.png"))
        files = {"questions.json": folder / "questions.json"}
        super().__init__("easy-vqa/test exact match", questions, files=files)

    def credit(self, key: str, text: str) -> float:
        return float(text.strip().rstrip(".").casefold() == self.truth[key])

    def right(self, key: str) -> str:
        return self.truth[key]

    def groups(self, key: str) -> Iterable[str]:
        return [_category(self.truth[key])]


class EasyVQABenchmarkConfig(BenchmarkConfig):
    """easy-VQA: the official test questions"""

    type: Literal["easy-vqa"] = "easy-vqa"
    data: LocalFile | None = Field(
        default=None, description="folder with easy-vqa/test (default: the installed package's data)"
    )

    @property
    def folder(self) -> Path:
        return (_home() if self.data is None else self.data / "easy-vqa") / "test"

    def present(self) -> bool:
        return (self.folder / "questions.json").is_file()

    def build(self) -> EasyVQA:
        if not self.present():
            raise UserError(f"{self.folder}: no questions.json; leave --data out to use the package's files")
        return EasyVQA(self.folder)


@hookimpl
def vlm_benchmarks() -> list[type[BenchmarkConfig]]:
    return [EasyVQABenchmarkConfig]
