"""Turns rows into training examples: token ids with a loss mask, and pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from torch.utils.data import Dataset

from vlm_core.errors import BadSample, UserError, choices
from vlm_core.interfaces import Tokenizer
from vlm_core.io.files import io_retries
from vlm_core.io.images import ImageSource, each_image, load_image, upright_size
from vlm_core.io.video.sources import VideoSource, in_memory
from vlm_core.model import VLM
from vlm_core.rows import ROW_KEYS
from vlm_core.spec.spec import Spec
from vlm_core.text.render import IMAGE, Message, Part, TokenizedConversation, TooLong, render
from vlm_core.text.template import AnyTemplate
from vlm_core.views.image_views import ImageInput
from vlm_core.views.layout import Layout, PlainLayout, ViewLayout, too_many_views
from vlm_core.views.video_views import VideoProcessor
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data.conversation.llava_schema import PLACEHOLDER


@dataclass
class Example:
    """One training sample; `images` as from `SampleProcessor.images`."""

    sample: TokenizedConversation
    images: list[ImageInput]


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

    `features`, if given, returns the cached features of an image source; `image_tokens` then takes these. `layout`, if
    images have several views, gives them from the size (width, height) in the image's header.
    """

    transform: Callable[[Any], ImageInput]
    image_tokens: Callable[[ImageInput], int]
    tokenizer: Tokenizer
    template: AnyTemplate
    loss_on: Literal["answers", "all"]
    max_length: int
    video: VideoProcessor
    features: Callable[[Any], ImageInput] | None = None
    layout: Callable[[tuple[int, int]], ViewLayout] | None = None

    def pixels(self, source: ImageSource) -> ImageInput:
        """An image or video as the model takes it."""
        if isinstance(source, VideoSource):
            return self.video(source)
        return self.transform(load_image(source))

    def images(self, row: dict[str, Any]) -> list[ImageInput]:
        """The row's images as the model takes them in training: pixels, or cached features."""
        return each_image(row["image"], self.features or self.pixels)

    def untruncated(self, row: dict[str, Any]) -> Example:
        """The row at its full length; raises `BadSample` for a bad image."""
        images = self.images(row)
        return Example(self._rendered(row, [self.image_tokens(image) for image in images]), images)

    def with_files(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its image files in memory if each is read twice, for its size and for its pixels."""
        return row if self.layout is None else {**row, "image": each_image(row["image"], in_memory)}

    def read(self, row: dict[str, Any]) -> Example:
        """Raises `BadSample` for a bad image and `TooLong` for a row that doesn't fit."""
        row = self.with_files(row)
        if not (layouts := self.layouts(row)):
            example = self.untruncated(row)
            return Example(example.sample.truncated(self.max_length), example.images)
        return Example(self.sample(row, layouts), self.images(row))  # the length is checked before decoding

    def sample(self, row: dict[str, Any], layouts: Sequence[Layout]) -> TokenizedConversation:
        """The tokens of a row whose images have these views; nothing is decoded."""
        return self.truncated(self._rendered(row, [one.positions for one in layouts]), layouts)

    def layouts(self, row: dict[str, Any]) -> Sequence[Layout]:
        """The views of the row's images and videos, from their headers; empty if each image has one view."""
        if self.layout is None and not any(isinstance(source, VideoSource) for source in row["image"]):
            return []
        return each_image(row["image"], self._layout)

    def _layout(self, source: ImageSource) -> Layout:
        if isinstance(source, VideoSource):
            return self.video.layout(source)
        return PlainLayout(1, self.video.tokens) if self.layout is None else self.layout(upright_size(source))

    def truncated(self, whole: TokenizedConversation, layouts: Sequence[Layout]) -> TokenizedConversation:
        """The first `max_length` positions of a row; `TooLong` counts the views of its images."""
        try:
            return whole.truncated(self.max_length)
        except TooLong as error:
            raise TooLong(too_many_views(layouts, len(whole), self.max_length) or str(error)) from None

    def _rendered(self, row: dict[str, Any], counts: Sequence[int]) -> TokenizedConversation:
        return render(
            self.template,
            messages(row),
            self.tokenizer,
            counts,
            system=row.get("system"),
            loss_on=self.loss_on,
        )


def sample_processor(
    model: VLM, spec: Spec, train: TrainConfig, stage: Stage | None = None
) -> SampleProcessor:
    """The processor of rows for `model` in `stage`, or at inference."""
    processor = model.image_processor
    _refuse_no_room(model, train.max_length)
    return SampleProcessor(
        processor,
        model.image_tokens,
        model.llm.tokenizer,
        (stage and stage.template) or spec.template,
        stage.loss_on if stage else "answers",
        train.max_length,
        model.video_processor,
        layout=None if processor.rule is None else processor.layout,
    )


def _refuse_no_room(model: VLM, max_length: int) -> None:
    """Raise `UserError` if not even the views of the smallest image leave room for a token of text."""
    counts = model.view_counts
    if counts is not None and counts.fewest.positions >= max_length:
        fewest = counts.fewest
        raise UserError(
            f"views: an image has at least {fewest.views} views of {fewest.tokens:,} tokens, {fewest.positions:,} in "
            f"the sequence; train.max_length is {max_length:,}: raise it, or cut fewer tiles"
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
    return DroppedSample(index, name, reason, text if text.startswith(f"{name}:") else f"{label}: {text}")
