"""easy-VQA as a dataset: a third party's reader in forty lines."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from vlm_core import DatasetConfig, UserError, hookimpl

Category = Literal["shape", "colour", "yes/no"]
_SHAPES = {"circle", "rectangle", "triangle"}


def _category(answer: str) -> Category:
    return "yes/no" if answer in ("yes", "no") else "shape" if answer in _SHAPES else "colour"


class EasyVQAConfig(DatasetConfig):
    """easy-VQA (MIT): pictures of one coloured shape, questions with one-word answers, official split.

    `images: false` leaves the text alone, for a language model's first stage; `categories` picks questions;
    `turns` puts up to that many questions about a picture into one conversation, as LLaVA's own data does.
    """

    type: Literal["easy-vqa"] = "easy-vqa"
    split: Literal["train", "test"]
    images: bool = True
    categories: list[Category] | None = None
    turns: PositiveInt = 1

    def rows(self) -> list[dict[str, Any]]:
        package = find_spec("easy_vqa")
        if package is None or package.origin is None:
            raise UserError("easy-vqa's files are not installed: pip install easy-vqa")
        folder = Path(package.origin).parent / "data" / self.split
        by_image: dict[int, list[tuple[str, str]]] = {}
        for question, answer, image in json.loads((folder / "questions.json").read_text(encoding="utf-8")):
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
