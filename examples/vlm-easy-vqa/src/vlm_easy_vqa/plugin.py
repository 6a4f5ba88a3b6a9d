"""easy-VQA as a dataset: a third party's reader in forty lines."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vlm_core import DatasetConfig, UserError, hookimpl

Category = Literal["shape", "colour", "yes/no"]
_SHAPES = {"circle", "rectangle", "triangle"}


def _category(answer: str) -> Category:
    return "yes/no" if answer in ("yes", "no") else "shape" if answer in _SHAPES else "colour"


class EasyVQAConfig(DatasetConfig):
    """easy-VQA (MIT): pictures of one coloured shape, questions with one-word answers, official split.

    `images: false` leaves the text alone, for a language model's first stage; `categories` picks questions.
    """

    type: Literal["easy-vqa"] = "easy-vqa"
    split: Literal["train", "test"]
    images: bool = True
    categories: list[Category] | None = None

    def rows(self) -> list[dict[str, Any]]:
        package = find_spec("easy_vqa")
        if package is None or package.origin is None:
            raise UserError("easy-vqa's files are not installed: pip install easy-vqa")
        folder = Path(package.origin).parent / "data" / self.split
        questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        rows = [self._row(i, folder, *entry) for i, entry in enumerate(questions)]
        return [row for row in rows if not self.categories or row["category"] in self.categories]

    def _row(self, number: int, folder: Path, question: str, answer: str, image: int) -> dict[str, Any]:
        mark = "<image>\n" if self.images else ""
        return {
            "id": f"{self.split}-{number}",
            "image": [str(folder / "images" / f"{image}.png")] if self.images else [],
            "conversations": [{"from": "human", "value": mark + question}, {"from": "gpt", "value": answer}],
            "category": _category(answer),
        }


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [EasyVQAConfig]
