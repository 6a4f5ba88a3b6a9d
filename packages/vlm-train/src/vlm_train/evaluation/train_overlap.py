"""Overlap of evaluation and validation rows with training data, by the content of image and question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import ImageContent, ImageSource, image_content, image_content_if, image_name
from vlm_train.config.train import TrainConfig
from vlm_train.distributed import watchdog
from vlm_train.evaluation.controls import ImageKey, Row, image_key
from vlm_train.evaluation.held_out_answers import normal, pairs

Text = tuple[str, ...]
Contents = dict[str, ImageContent]


def contents(rows: Sequence[Row], accelerator: Accelerator) -> Contents:
    """What each image of `rows` shows, by its name; the processes share the work. Raises `BadSample`."""
    images = {image_name(image): (row["id"], image) for row in rows for image in row["image"]}
    share = {}
    for name in sorted(images)[accelerator.process_index :: accelerator.num_processes]:
        watchdog.beat(f"reading {name}")
        row, image = images[name]
        try:
            share[name] = image_content(image)
        except BadSample as error:
            raise BadSample(error.reason, f"row {row}: {error}") from None
    return dict(item for part in gather_object([share]) for item in part.items())


def texts(row: Row) -> Iterator[Text]:
    """Each question of a row as it is compared: with images its own words, without any also all turns before it."""
    before: Text = ()
    for question, answer in pairs(row):
        asked = normal(question)
        yield (asked,) if row["image"] else (*before, asked)
        before += (asked, normal(answer))


class Overlap:
    """Rows that measure, and a search for them among those that train.

    A row is trained on if a training row asks its last question (with `every`, any of its questions) about the same
    images. Of a training row that asks none of these questions no image is read, and of an image with other sides
    than these rows' images have only the header is.
    """

    def __init__(self, rows: Sequence[Row], contents: Contents, *, every: bool = False) -> None:
        self.contents: dict[str, ImageContent | None] = {**contents}
        self.places: dict[Text, dict[ImageKey, set[int]]] = defaultdict(lambda: defaultdict(set))
        for place, row in enumerate(rows):
            asked = list(texts(row))
            for text in asked if every else asked[-1:]:
                self.places[text][image_key(row, contents)].add(place)
        self.sides = {content.sides for content in contents.values()}
        self.count = len(rows)

    def trained_on(self, train: Sequence[Row], accelerator: Accelerator) -> set[int]:
        """Places of the rows that `train` holds, too; each process looks through a part of `train`."""
        world, rank = accelerator.num_processes, accelerator.process_index
        found: set[int] = set()
        for i in range(len(train) * rank // world, len(train) * (rank + 1) // world):
            watchdog.beat(f"comparing row {i} with the rows that measure")
            try:
                found |= self._same(train[i])
            except BadSample:  # nothing is learnt from it
                continue
            if len(found) == self.count:
                break
        return set().union(*gather_object([found]))

    def _same(self, row: Row) -> set[int]:
        candidates = [self.places[text] for text in texts(row) if text in self.places]
        if not any(len(key) == len(row["image"]) for keys in candidates for key in keys):
            return set()
        seen = [self._content(image) for image in row["image"]]
        key = tuple(content for content in seen if content is not None)
        if len(key) < len(seen):
            return set()
        return set().union(*(keys.get(key, set()) for keys in candidates))

    def _content(self, image: ImageSource) -> ImageContent | None:
        name = image_name(image)
        if name not in self.contents:
            self.contents[name] = image_content_if(image, self.sides)
        return self.contents[name]


class Measured:
    """Rows that measure a model (`name` in messages), what their images show, and which of them a stage trains on.

    Every process must ask for the same at the same time. With `every`, one trained question makes a row a trained one.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        train: TrainConfig,
        stages: Sequence[Sequence[Row]],
        accelerator: Accelerator,
        *,
        every: bool = False,
    ) -> None:
        self.name, self.rows, self.train, self.stages = name, rows, train, stages
        self.accelerator, self.every = accelerator, every

    @cached_property
    def contents(self) -> Contents:
        try:
            return contents(self.rows, self.accelerator)
        except BadSample as error:  # a figure of fewer rows would be another figure
            raise UserError(f"{self.name}: {error}; mend or remove this row") from None

    @cached_property
    def trained_on(self) -> dict[str, set[int]]:
        """Places of the rows that are also in each stage's data; equal data is looked through once."""
        overlap = Overlap(self.rows, self.contents, every=self.every)
        known: list[tuple[Any, set[int]]] = []
        for stage, rows in zip(self.train.stages, self.stages, strict=True):
            if all(stage.data != data for data, _ in known):
                known.append((stage.data, overlap.trained_on(rows, self.accelerator)))
        return {
            stage.name: next(places for data, places in known if data == stage.data)
            for stage in self.train.stages
        }

    @property
    def counts(self) -> dict[str, Any]:
        """For a record: rows, rows in any stage's data, and rows in each stage's."""
        found = self.trained_on
        any_stage = set[int]().union(*found.values())
        stages = {name: len(places) for name, places in found.items()}
        return {"rows": len(self.rows), "trained_on": len(any_stage), "stages": stages}

    def lines(self) -> list[str]:
        """Lines that are printed before the first step."""
        total = len(self.rows)
        lines = [
            f"{self.name}: {len(places)} of {total} rows are also in stage {stage}'s data, so they are not held out"
            for stage, places in self.trained_on.items()
            if places
        ]
        return lines or [f"{self.name}: none of the {total} rows is in a stage's data"]
