"""Rows to what the model reads: a token sample and pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor
from torch.utils.data import Dataset

from vlm_core.errors import BadSample, UserError, choices
from vlm_core.interfaces import Tokenizer
from vlm_core.io.files import io_retries
from vlm_core.io.images import load_image
from vlm_core.model import VLM
from vlm_core.rows import ROW_KEYS
from vlm_core.spec.spec import Spec
from vlm_core.text.render import IMAGE, Message, Part, TokenizedConversation, TooLong, render
from vlm_core.text.template import AnyTemplate
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data.conversation.llava_schema import PLACEHOLDER


@dataclass
class Example:
    """One training sample; its images are what `SampleProcessor.images` gives."""

    sample: TokenizedConversation
    images: list[Tensor]


T = TypeVar("T")
TOO_LONG, FATAL = "too-long", "fatal"


@dataclass(frozen=True)
class DroppedSample:
    """A row that gives no example, its id, and why. It travels as data: worker processes garble exceptions.

    `reason` is `TOO_LONG` for a row that can't be shortened to fit, `FATAL` for a fault that isn't the row's.
    """

    row: int
    name: str
    reason: str
    message: str


@dataclass
class SampleProcessor:
    """Everything that turns a row into an `Example`; plain enough to be sent to a worker process.

    `features`, if given, finds the features (H, W, D) of an image by its source; `image_tokens` then takes these.
    """

    transform: Callable[[Any], Tensor]
    image_tokens: Callable[[Tensor], int]
    tokenizer: Tokenizer
    template: AnyTemplate
    loss_on: Literal["answers", "all"]
    max_length: int
    features: Callable[[Any], Tensor] | None = None

    def pixels(self, row: dict[str, Any]) -> list[Tensor]:
        """The row's images, each (3, h, w)."""
        return [self.transform(load_image(image)) for image in row["image"]]

    def images(self, row: dict[str, Any]) -> list[Tensor]:
        """The row's images as the model takes them in training: pixels, or features where these are known."""
        return self.pixels(row) if self.features is None else [self.features(i) for i in row["image"]]

    def whole(self, row: dict[str, Any]) -> Example:
        """The row at its full length; raises `BadSample` for a bad image."""
        images = self.images(row)
        counts = [self.image_tokens(image) for image in images]
        sample = render(
            self.template,
            messages(row),
            self.tokenizer,
            counts,
            system=row.get("system"),
            loss_on=self.loss_on,
        )
        return Example(sample, images)

    def read(self, row: dict[str, Any]) -> Example:
        """Raises `BadSample` for a bad image and `TooLong` for a row that doesn't fit."""
        example = self.whole(row)
        return Example(example.sample.truncated(self.max_length), example.images)


def sample_processor(
    model: VLM, spec: Spec, train: TrainConfig, stage: Stage | None = None
) -> SampleProcessor:
    """Rows as `model` reads them in `stage`, or at inference."""
    return SampleProcessor(
        model.encoder.transform,
        model.image_tokens,
        model.llm.tokenizer,
        (stage and stage.template) or spec.template,
        stage.loss_on if stage else "answers",
        train.max_length,
    )


def messages(row: dict[str, Any]) -> list[Message]:
    """LLaVA turns as messages. A placeholder is an image only in a human turn: answers are text.

    Raises `UserError` for a row that no dataset may give: another speaker, or a key that nothing reads.
    """
    if unknown := row.keys() - ROW_KEYS:
        possible = ", ".join(sorted(ROW_KEYS))
        raise UserError(
            f"the dataset gives {sorted(unknown)[0]!r}, which is not read; a row holds {possible}"
        )
    result = []
    for turn in row["conversations"]:
        if turn["from"] not in ("human", "gpt"):
            raise UserError(
                f"the dataset gives a turn of {turn['from']!r}{choices(turn['from'], ('human', 'gpt'))}"
            )
        if turn["from"] == "gpt":
            result.append(Message("assistant", (turn["value"],)))
            continue
        parts: list[Part] = []
        for i, text in enumerate(turn["value"].split(PLACEHOLDER)):
            parts += ([IMAGE] if i else []) + ([text] if text else [])
        result.append(Message("user", tuple(parts)))
    return result


class Fetched(list[T]):
    """The items of one batch; `io_retries` counts the reads for it that failed and were retried."""

    io_retries = 0


class Examples(Dataset, Generic[T]):
    """Rows by index: what `read` makes of each, or `DroppedSample`."""

    def __init__(self, rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> None:
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Fetched[T | DroppedSample]:
        """A batch, as a `DataLoader` asks for it."""
        with io_retries() as retried:
            items = Fetched([self[index] for index in indices])
        items.io_retries = len(retried)
        return items

    def __getitem__(self, index: int) -> T | DroppedSample:
        name = f"row {index}"
        try:
            row = self.rows[index]
            name = row["id"]
            return self.read(row)
        except TooLong as error:
            return left_out(index, name, TOO_LONG, error)
        except BadSample as error:
            return left_out(index, error.row or name, error.reason, error)
        except UserError as error:
            return left_out(index, name, FATAL, error)


def left_out(index: int, name: str, reason: str, error: Exception) -> DroppedSample:
    """A row that `error` keeps out; the message says its id, unless it begins with the place that serves as one."""
    text, called = str(error), name if name == f"row {index}" else f"row {name}"
    return DroppedSample(index, name, reason, text if text.startswith(name) else f"{called}: {text}")
