"""Finds evaluation and validation rows that are also training data, by the content of image and question."""

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
from vlm_train.evaluation.held_out_answers import normalized, pairs

Text = tuple[str, ...]
Contents = dict[str, ImageContent]


def contents(rows: Sequence[Row], accelerator: Accelerator) -> Contents:
    """{image name: content} of all images of `rows`; divided among the processes. Raises `BadSample`."""
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
    """Each question of a row for comparison: its text if the row has images, else with all turns before it."""
    before: Text = ()
    for question, answer in pairs(row):
        text = normalized(question)
        yield (text,) if row["image"] else (*before, text)
        before += (text, normalized(answer))


class Overlap:
    """Searches training data for evaluation rows.

    A row is trained on if a training row asks its last question (with `every`, any of its questions) about the same
    images. Images of training rows without such a question are not read; of images of other sizes than the evaluation
    images only the header is read.
    """

    def __init__(self, rows: Sequence[Row], contents: Contents, *, every: bool = False) -> None:
        self.contents: dict[str, ImageContent | None] = {**contents}
        self.indices: dict[Text, dict[ImageKey, set[int]]] = defaultdict(lambda: defaultdict(set))
        self.image_counts: dict[Text, set[int]] = defaultdict(set)
        for index, row in enumerate(rows):
            questions = list(texts(row))
            for text in questions if every else questions[-1:]:
                self.indices[text][image_key(row, contents)].add(index)
                self.image_counts[text].add(len(row["image"]))
        self.sides = {content.sides for content in contents.values()}
        self.count = len(rows)

    def trained_on(self, train: Sequence[Row], accelerator: Accelerator) -> set[int]:
        """Indices of the evaluation rows that are also in `train`, which is divided among the processes."""
        world, rank = accelerator.num_processes, accelerator.process_index
        overlap: set[int] = set()
        for i in range(len(train) * rank // world, len(train) * (rank + 1) // world):
            watchdog.beat(f"comparing row {i} with the evaluation rows")
            try:
                overlap |= self._matches(train[i])
            except BadSample:  # training does not use it
                continue
            if len(overlap) == self.count:
                break
        return set().union(*gather_object([overlap]))

    def _matches(self, row: Row) -> set[int]:
        asked = [text for text in texts(row) if len(row["image"]) in self.image_counts.get(text, ())]
        if not asked:
            return set()
        contents = [self._content(image) for image in row["image"]]
        key = tuple(content for content in contents if content is not None)
        if len(key) < len(contents):
            return set()
        return set().union(*(self.indices[text].get(key, set()) for text in asked))

    def _content(self, image: ImageSource) -> ImageContent | None:
        name = image_name(image)
        if name not in self.contents:
            self.contents[name] = image_content_if(image, self.sides)
        return self.contents[name]


class EvalRows:
    """Evaluation or validation rows (`name` in messages), their image contents, and which of them are trained on.

    The properties are collective: all processes must read the same one at the same time. `every` as in `Overlap`.
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
        except BadSample as error:  # skipping the row would change the score
            raise UserError(f"{self.name}: {error}; fix or remove this row") from None

    @cached_property
    def trained_on(self) -> dict[str, set[int]]:
        """{stage: indices of the rows that are also in its data}; equal data is searched once."""
        overlap = Overlap(self.rows, self.contents, every=self.every)
        searched: list[tuple[Any, set[int]]] = []
        for stage, rows in zip(self.train.stages, self.stages, strict=True):
            if all(stage.data != data for data, _ in searched):
                searched.append((stage.data, overlap.trained_on(rows, self.accelerator)))
        return {
            stage.name: next(indices for data, indices in searched if data == stage.data)
            for stage in self.train.stages
        }

    @property
    def counts(self) -> dict[str, Any]:
        """Number of `rows`, rows `trained_on` in any stage, and trained rows by stage, for the record."""
        trained_on = self.trained_on
        any_stage = set[int]().union(*trained_on.values())
        stages = {name: len(indices) for name, indices in trained_on.items()}
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
