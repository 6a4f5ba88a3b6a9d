"""What `vlm-train init` needs to know of a dataset: usable rows, images, lengths of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import NamedTuple

from vlm_core.errors import UserError
from vlm_core.io import digests
from vlm_core.io.images import load_image
from vlm_core.io.video.sources import DEFAULT_SAMPLING, VideoSource
from vlm_core.plugins.config import DatasetConfig
from vlm_core.rows import Row, known_faults
from vlm_train.data.row_check import RowCheck
from vlm_train.data.split import SplitConfig
from vlm_train.data.split_rows.groups import groups_of
from vlm_train.data.split_rows.image_keys import row_keys
from vlm_train.evaluation.held_out_answers import pairs

CHECKED_ROWS = 1000
"""Rows whose images are decoded; `vlm-train check` reads all."""
MAX_BAD = 0.1
"""Largest share of bad rows for which a spec is written."""
SHORT_ANSWER = 40
"""Bytes of an answer that is compared as a whole; longer ones are rarely repeated word by word."""


class RowFacts(NamedTuple):
    """Counts of one usable row: `images`, of which `videos`; views (a frame is one); bytes of the last answer.

    `side` is the shorter side of the smallest image or frame.
    """

    images: int
    videos: int
    views: int
    side: int
    answer_bytes: int


def row_facts(row: Row) -> RowFacts:
    """Raises `BadSample` for an image that can't be used, and a video whose first frame can't."""
    sides = [min(load_image(image).size) for image in row["image"]]
    videos = [image for image in row["image"] if isinstance(image, VideoSource)]
    frames = sum((video.sampling or DEFAULT_SAMPLING).limit for video in videos)
    answer_bytes = len(row["conversations"][-1]["value"].encode())
    views = len(sides) - len(videos) + frames
    return RowFacts(len(sides), len(videos), views, min(sides, default=0), answer_bytes)


@dataclass(frozen=True)
class DataFacts:
    """A dataset and what was read of it.

    `bad` of the `checked` rows can't be used, and about `bad_share` of all rows. `groups` counts groups of rows with a
    common image. `videos` says whether rows have videos, and `views` is the most that a row has: a frame is one. `side`
    is the median of the images' shorter sides in pixels. `short_answers` says whether nearly all answers can be
    compared as a whole; `answer_bytes` is the longest one.
    """

    dataset: DatasetConfig
    rows: int
    checked: int
    bad: int
    bad_share: float
    groups: int
    videos: bool
    views: int
    side: int
    short_answers: bool
    answer_bytes: int


def data_facts(dataset: DatasetConfig, rows: Sequence[Row], check: RowCheck[RowFacts]) -> DataFacts:
    """Facts of the `rows` of a dataset after `check` has read them; raises `UserError` for unsuitable data."""
    bad_share = _bad_share(rows, check)
    if bad_share > MAX_BAD:
        raise UserError(_too_many_bad(check))
    usable = check.usable
    if not any(row.images for row in usable):
        raise UserError(f"{dataset.label()}: no row has an image or a video")
    lengths = sorted(row.answer_bytes for row in usable)
    longest_of_most = lengths[ceil(0.95 * len(lengths)) - 1]
    return DataFacts(
        dataset=dataset,
        rows=len(rows),
        checked=len(usable) + len(check.dropped),
        bad=len(check.dropped),
        bad_share=bad_share,
        groups=len(groups_of(row_keys(rows))),
        videos=any(row.videos for row in usable),
        views=max(row.views for row in usable),
        side=round(median(row.side for row in usable if row.images)),
        short_answers=longest_of_most <= SHORT_ANSWER,
        answer_bytes=lengths[-1],
    )


def read_rows(dataset: DatasetConfig) -> tuple[Sequence[Row], RowCheck[RowFacts]]:
    """The rows of a dataset, and a check of `CHECKED_ROWS` evenly spaced ones and of those known to be bad."""
    rows = dataset.rows()
    check: RowCheck[RowFacts] = RowCheck("data", len(rows))
    indices = {*digests.evenly_spaced(len(rows), CHECKED_ROWS), *known_faults(rows)}
    check.read(rows, row_facts, sorted(indices), 0)
    return rows, check


def _too_many_bad(check: RowCheck[RowFacts]) -> str:
    count = f"{len(check.dropped)} of {len(check.dropped) + len(check.usable)} rows can't be used"
    advice = "give their folder with --images" if check.reasons["missing"] else "mend these rows"
    return f"{count}, more than a tenth: {advice}; no spec is written"


def _bad_share(rows: Sequence[Row], check: RowCheck[RowFacts]) -> float:
    """The share of bad rows: those known without reading, and the others by the share in the rows read."""
    known = known_faults(rows)
    others = sum(item.row not in known for item in check.dropped)
    return len(known) / len(rows) + others / max(1, len(check.usable) + others)


class Split(NamedTuple):
    """A split of a dataset, with the number of rows in each part, and a held-out row as an example."""

    train: SplitConfig
    held_out: SplitConfig
    train_rows: int
    held_out_rows: int
    example: Row


def split(dataset: DatasetConfig, share: float) -> Split:
    """Both parts of a dataset; raises `UserError` if nothing can be held out."""
    train, held_out = (
        SplitConfig(dataset=dataset, part=part, held_out=share) for part in ("train", "held-out")
    )
    rows = held_out.rows()
    return Split(train, held_out, len(train.rows()), len(rows), rows[0])


class Example(NamedTuple):
    """A row's only image or video: the option of `vlm-chat` for it, its file, and the row's first question."""

    option: str
    file: str
    question: str


def example_question(row: Row) -> Example | None:
    """A question to ask; None for several images, and for one without its own file."""
    image = row["image"][0] if len(row["image"]) == 1 else None
    file, option = (image.file, "--video") if isinstance(image, VideoSource) else (image, "--image")
    return Example(option, str(file), pairs(row)[0][0]) if isinstance(file, str | Path) else None
