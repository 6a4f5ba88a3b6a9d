"""`vlm-train check`: reads the data as training would, ahead of time, and lists the rows that training would drop."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.errors import BadSample
from vlm_core.io import digests
from vlm_core.io.atomic import write_file
from vlm_core.io.video.sources import file_of
from vlm_core.rows import Row
from vlm_core.spec.spec import Spec
from vlm_core.views.video_views import missing_frames
from vlm_train.config.template_checks import check_templates
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data.dataset import TOO_LONG, DroppedSample, SampleProcessor, sample_processor
from vlm_train.data.mixture import joined
from vlm_train.data.row_check import RowCheck
from vlm_train.engine.bad_samples import allowance, missing_lines

_UNDECODABLE = ("damaged", "empty", "not-a-video", "not-an-image", "no-frames", "truncated")
"""Reasons of image and video files that an interrupted download or extraction leaves."""
_INCOMPLETE = "an interrupted download or extraction leaves such files: get the archive of this folder again"


@dataclass(frozen=True)
class SampleStats:
    """Counts of one usable row: tokens before and after truncation, target tokens, images, and views of each image.

    `missing_frames` are the missing or damaged frames of each video that has some.
    """

    tokens: int
    truncated: int
    targets: int
    images: int
    views: tuple[int, ...] = ()
    missing_frames: tuple[int, ...] = ()


def sample_stats(processor: SampleProcessor, row: Row) -> SampleStats:
    """Read a row and return its counts alone: worker processes send no pixels."""
    row = processor.with_files(row)
    with missing_frames() as missing:
        example = processor.untruncated(row)
    layouts = processor.layouts(row)
    sample = processor.truncated(example.sample, layouts)
    views = tuple(layout.views for layout in layouts)
    targets, images = sum(sample.loss_mask), len(example.images)
    return SampleStats(len(example.sample), len(sample), targets, images, views, tuple(missing))


@dataclass
class DataCheck(RowCheck[SampleStats]):
    """Result for the data of one stage, or of `held_out_qa`."""

    allowed: int = 0
    too_long_is_error: bool = False
    missing: list[str] = field(default_factory=list)
    """Lines about missing images, one for each folder."""
    damaged: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Image files that can't be decoded, by folder and reason."""

    @property
    def passes(self) -> bool:
        """Whether training would accept this data: no more bad rows than allowed, and at least one usable row."""
        too_long = self.reasons[TOO_LONG]
        bad = len(self.dropped) - too_long
        return bad <= self.allowed and not (too_long and self.too_long_is_error) and bool(self.usable)

    def lines(self) -> list[str]:
        """A summary for the terminal."""
        checked, dropped = self.summary()
        summary = [checked, f"  {dropped}; bad rows allowed: {self.allowed}"]
        summary += [*self.missing, *self._damaged_lines()]
        return summary + (self._statistics() if self.usable else [])

    def _damaged_lines(self) -> list[str]:
        """A line for each folder with image files that can't be decoded."""
        lines = []
        for folder in dict.fromkeys(folder for folder, _ in self.damaged):
            counts = ", ".join(f"{n} {reason}" for (f, reason), n in self.damaged.items() if f == folder)
            lines.append(f"  {folder}: image files that can't be read: {counts}; {_INCOMPLETE}")
        return lines

    def _statistics(self) -> list[str]:
        usable, tokens = self.usable, [s.tokens for s in self.usable]
        share = 100 * sum(s.targets for s in usable) / sum(s.truncated for s in usable)
        truncated = sum(s.truncated < s.tokens for s in usable)
        none, several = sum(s.images == 0 for s in usable), sum(s.images > 1 for s in usable)
        views = [count for s in usable for count in s.views]
        frames = [count for s in usable for count in s.missing_frames]
        return [
            *([f"  missing or damaged frames: {sum(frames)}, in {len(frames)} videos"] if frames else []),
            *([_views_line(views)] if views else []),
            f"  images: {sum(s.images for s in usable)}; rows without: {none}, with several: {several}",
            f"  tokens per row: {min(tokens)} to {max(tokens)}, median {median(tokens):.0f}; "
            f"truncated to max_length: {truncated}",
            f"  target tokens: {share:.0f} %; rows without any: {sum(s.targets == 0 for s in usable)}",
        ]


def _views_line(views: Sequence[int]) -> str:
    """`  views of an image: 3 to 5, median 5; 1,204 in all`."""
    return f"  views of an image: {min(views)} to {max(views)}, median {median(views):.0f}; {sum(views):,} in all"


def _damaged(rows: Sequence[Row], dropped: Iterable[DroppedSample]) -> Counter[tuple[str, str]]:
    """Image files that can't be decoded, by folder and reason."""
    return Counter((_folder(rows, item.row), item.reason) for item in dropped if item.reason in _UNDECODABLE)


def _folder(rows: Sequence[Row], index: int) -> str:
    """The folder of a row's first image; for a row that can't be read or has images in another file: "the data"."""
    with suppress(BadSample):
        for image in rows[index]["image"]:
            file = file_of(image)
            if isinstance(file, str | Path):
                return os.path.dirname(file)
    return "the data"


def data_sections(train: TrainConfig) -> list[tuple[str, Sequence[Any], Stage | None]]:
    """(name, datasets, stage) of each stage and, with None as its stage, of `held_out_qa`."""
    stages: list[tuple[str, Sequence[Any], Stage | None]] = [(s.name, s.data, s) for s in train.stages]
    return [*stages, ("held_out_qa", train.held_out_qa.data, None)] if train.held_out_qa else stages


def check_data(spec: Spec, train: TrainConfig, num_workers: int, limit: int | None) -> list[DataCheck]:
    """Check the data of every stage and of `held_out_qa`, each with its own template and limits."""
    model, checks = build_on_meta(spec), []
    check_templates(spec, train, model.llm.tokenizer)
    for name, data, stage in data_sections(train):
        rows = joined(data)
        allowed = allowance(train, len(rows)) if stage else 0
        too_long_is_error = train.on_too_long == "error" and stage is not None
        check = DataCheck(
            name,
            len(rows),
            allowed=allowed,
            too_long_is_error=too_long_is_error,
            missing=missing_lines(rows),
        )
        read = partial(sample_stats, sample_processor(model, spec, train, stage))
        check.read(rows, read, digests.evenly_spaced(len(rows), limit), num_workers)
        check.damaged = _damaged(rows, check.dropped)
        checks.append(check)
    return checks


def write_report(checks: Sequence[DataCheck], path: Path) -> None:
    """Write a JSON line for each row that training would drop."""
    lines = [json.dumps({"stage_name": c.name, **asdict(item)}) for c in checks for item in c.dropped]
    write_file(path, "".join(line + "\n" for line in lines))
