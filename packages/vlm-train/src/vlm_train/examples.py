"""Rows to what the model reads: a token sample and pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from vlm_core.chat import IMAGE, Message, Part, Sample, TooLong, write
from vlm_core.errors import UserError
from vlm_core.images import load_image
from vlm_core.interfaces import Tokenizer
from vlm_core.template import Template
from vlm_train.llava import PLACEHOLDER


@dataclass
class Example:
    """One training sample."""

    sample: Sample
    pixels: list[Tensor]


@dataclass(frozen=True)
class Dropped:
    """A row that could not be shortened to fit; counted, never replaced."""

    reason: str


@dataclass(frozen=True)
class Fault:
    """A row that cannot be read. It travels as data: worker processes garble exceptions."""

    message: str


@dataclass
class Reader:
    """Everything that turns a row into an `Example`; plain enough to be sent to a worker process."""

    transform: Callable[[Any], Tensor]
    image_tokens: Callable[[Tensor], int]
    tokenizer: Tokenizer
    template: Template
    loss_on: Literal["answers", "all"]
    max_length: int

    def pixels(self, row: dict[str, Any]) -> list[Tensor]:
        """The row's images, each (3, h, w)."""
        return [self.transform(load_image(path)) for path in row["image"]]

    def read(self, row: dict[str, Any]) -> Example:
        """Raises `UserError` for a bad image and `TooLong` for a row that doesn't fit."""
        pixels = self.pixels(row)
        counts = [self.image_tokens(p) for p in pixels]
        sample = write(self.template, messages(row), self.tokenizer, counts, loss_on=self.loss_on)
        return Example(sample.truncated(self.max_length), pixels)


def messages(row: dict[str, Any]) -> list[Message]:
    """LLaVA turns as messages. A placeholder is an image only in a human turn: answers are text."""
    result = []
    for turn in row["conversations"]:
        if turn["from"] == "gpt":
            result.append(Message("assistant", (turn["value"],)))
            continue
        parts: list[Part] = []
        for i, text in enumerate(turn["value"].split(PLACEHOLDER)):
            parts += ([IMAGE] if i else []) + ([text] if text else [])
        result.append(Message("user", tuple(parts)))
    return result


class Examples(Dataset):
    """Rows by index, as `Example`, `Dropped` or `Fault`."""

    def __init__(self, rows: Sequence[dict[str, Any]], reader: Reader) -> None:
        self.rows, self.reader = rows, reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | Dropped | Fault:
        row = self.rows[index]
        try:
            return self.reader.read(row)
        except TooLong as error:
            return Dropped(f"row {row['id']}: {error}")
        except UserError as error:
            return Fault(f"row {row['id']}: {error}")
