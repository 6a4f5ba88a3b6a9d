"""Turns rows into training examples: token ids with a loss mask, and pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor
from torch.utils.data import Dataset

from vlm_core.errors import BadSample, UserError, choices
from vlm_core.interfaces import Tokenizer
from vlm_core.io.files import io_retries
from vlm_core.io.images import ImageSource, load_image
from vlm_core.model import VLM
from vlm_core.rows import ROW_KEYS
from vlm_core.spec.spec import Spec
from vlm_core.text.render import IMAGE, Message, Part, TokenizedConversation, TooLong, render
from vlm_core.text.template import AnyTemplate
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data.conversation.llava_schema import PLACEHOLDER


@dataclass
class Example:
    """One training sample; `images` as from `SampleProcessor.images`."""

    sample: TokenizedConversation
    images: list[Tensor]


T = TypeVar("T")
TOO_LONG, FATAL = "too-long", "fatal"


@dataclass(frozen=True)
class DroppedSample:
    """A row that can't be used, its id, and the reason.

    It is data, not an exception: torch re-raises exceptions of worker processes with a changed message. `reason` is
    `TOO_LONG` for a row that can't be truncated to fit, `FATAL` for an error that isn't the row's.
    """

    row: int
    name: str
    reason: str
    message: str


@dataclass
class SampleProcessor:
    """Turns a row into an `Example`; can be pickled for a worker process.

    `features`, if given, returns the cached features (H, W, D) of an image source; `image_tokens` then takes these.
    """

    transform: Callable[[Any], Tensor]
    image_tokens: Callable[[Tensor], int]
    tokenizer: Tokenizer
    template: AnyTemplate
    loss_on: Literal["answers", "all"]
    max_length: int
    features: Callable[[Any], Tensor] | None = None

    def pixels(self, row: dict[str, Any]) -> list[Tensor]:
        """The row's images, each (3, h, w). An image that the row repeats is read once."""
        return _each_once(row["image"], lambda image: self.transform(load_image(image)))

    def images(self, row: dict[str, Any]) -> list[Tensor]:
        """The row's images as the model takes them in training: pixels, or cached features."""
        return self.pixels(row) if self.features is None else _each_once(row["image"], self.features)

    def untruncated(self, row: dict[str, Any]) -> Example:
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
        example = self.untruncated(row)
        return Example(example.sample.truncated(self.max_length), example.images)


def _each_once(images: Sequence[ImageSource], read: Callable[[ImageSource], Tensor]) -> list[Tensor]:
    """`read` of all images, called once for each different one: a clip may repeat a frame."""
    tensors = {image: read(image) for image in dict.fromkeys(images)}
    return [tensors[image] for image in images]


def sample_processor(
    model: VLM, spec: Spec, train: TrainConfig, stage: Stage | None = None
) -> SampleProcessor:
    """The processor of rows for `model` in `stage`, or at inference."""
    return SampleProcessor(
        model.encoder.transform,
        model.image_tokens,
        model.llm.tokenizer,
        (stage and stage.template) or spec.template,
        stage.loss_on if stage else "answers",
        train.max_length,
    )


def messages(row: dict[str, Any]) -> list[Message]:
    """LLaVA turns as messages. A placeholder is an image in a human turn only: answers are text.

    Raises `UserError` for a row that violates the interface of datasets: an unknown speaker or key.
    """
    if unknown := row.keys() - ROW_KEYS:
        possible = ", ".join(sorted(ROW_KEYS))
        raise UserError(
            f"the dataset returned a row with the unknown key {sorted(unknown)[0]!r}; possible: {possible}"
        )
    result = []
    for turn in row["conversations"]:
        if turn["from"] not in ("human", "gpt"):
            raise UserError(
                f"the dataset returned a turn from {turn['from']!r}{choices(turn['from'], ('human', 'gpt'))}"
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
    """The items of one batch; `io_retries` counts its reads that failed and were retried."""

    io_retries = 0


class Examples(Dataset, Generic[T]):
    """A map-style dataset: `read(row)` of each row, or `DroppedSample` where that fails."""

    def __init__(self, rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> None:
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Fetched[T | DroppedSample]:
        """A batch, as `DataLoader` requests it."""
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
            return dropped_sample(index, name, TOO_LONG, error)
        except BadSample as error:
            return dropped_sample(index, error.row or name, error.reason, error)
        except UserError as error:
            return dropped_sample(index, name, FATAL, error)


def dropped_sample(index: int, name: str, reason: str, error: Exception) -> DroppedSample:
    """The row that raised `error`. Its message begins with the row's id, or with the file and row that replace it."""
    text, label = str(error), name if name == f"row {index}" else f"row {name}"
    return DroppedSample(index, name, reason, text if text.startswith(name) else f"{label}: {text}")
