"""The plugin module: the dataset `moving`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from vlm_core.io.paths import LocalPath
from vlm_core.plugins import DatasetConfig, UserError, hookimpl
from vlm_moving.clips import LONGEST_PASSAGE, Clip, Frame, Kind, QAPair, clip

LONGEST = 100_000


class MovingConfig(DatasetConfig):
    """Clips of moving shapes as rows of several images, and questions that one frame does not answer.

    A clip is drawn from its number, the split and `seed`. Its length is one of `frames`, and the shape asked about was
    last seen one of `distances` frames before the last frame, by default any that the clip has room for. The frames are
    at most 145 different images, written into `folder` at the first use; with `images: false` none is drawn.
    """

    type: Literal["moving"] = "moving"
    split: Literal["train", "test"] = Field(description="train or test; their clips are drawn independently")
    clips: PositiveInt = Field(le=1_000_000, description="number of clips")
    frames: list[int] = Field(
        default=[8, 64],
        min_length=1,
        max_length=2,
        description="length of a clip, or the shortest and the longest",
    )
    distances: list[int] | None = Field(
        default=None,
        min_length=1,
        description="frames since the shape asked about was seen, in turn; default: any",
    )
    kinds: list[Kind] = Field(default=list(get_args(Kind)), min_length=1, description="kinds of questions")
    turns: PositiveInt = Field(default=1, description="questions per conversation")
    suffix: str = Field(default="", max_length=40, description="added to the category of each question")
    images: bool = Field(default=True, description="false: rows without images")
    folder: LocalPath = Field(default="runs/moving-frames", description="folder of the drawn frames")
    seed: int = Field(default=0, description="seed of the clips")

    @model_validator(mode="after")
    def _room(self) -> MovingConfig:
        shortest, longest = self.frames[0], self.frames[-1]
        if not LONGEST_PASSAGE <= shortest <= longest <= LONGEST:
            raise ValueError(
                f"frames {self.frames}: expected lengths from {LONGEST_PASSAGE} to {LONGEST}, the shortest first"
            )
        far = shortest - LONGEST_PASSAGE
        if self.distances and not 0 <= min(self.distances) <= max(self.distances) <= far:
            raise ValueError(
                f"distances {self.distances}: expected numbers from 0 to {far}, so that a clip of {shortest} frames "
                f"has room for a shape, which takes up to {LONGEST_PASSAGE}"
            )
        return self

    def rows(self) -> list[dict[str, Any]]:
        clips = [self._clip(number) for number in range(self.clips)]
        files = self._draw({frame for one in clips for frame in one.frames()}) if self.images else {}
        return [row for one in clips for row in self._conversations(one, files)]

    def _clip(self, number: int) -> Clip:
        name = f"{self.split}-{self.seed}-{number}"
        rng = random.Random(f"length and distance of {name}")
        length = rng.randint(self.frames[0], self.frames[-1])
        if self.distances:
            return clip(name, length, self.distances[number % len(self.distances)])
        return clip(name, length, rng.randint(0, length - LONGEST_PASSAGE))

    def _draw(self, frames: set[Frame | None]) -> dict[Frame | None, str]:
        """The frames' files, drawn where they don't exist."""
        from vlm_moving.pictures import write

        try:
            return {frame: str(write(frame, Path(self.folder))) for frame in frames}
        except OSError as error:
            raise UserError(f"{self.folder}: cannot write the frames: {error.strerror or error}") from None

    def _conversations(self, one: Clip, files: Mapping[Frame | None, str]) -> list[dict[str, Any]]:
        """Rows of `turns` questions each; the last question of a row gives its category."""
        pairs = [question for question in one.questions() if question.kind in self.kinds]
        random.Random(f"order of {one.name}").shuffle(pairs)
        images = [files[frame] for frame in one.frames()] if self.images else []
        name = f"{one.name}-{one.length}-{one.distance}"
        return [
            self._conversation(f"{name}-{pairs[start].kind}", pairs[start : start + self.turns], images)
            for start in range(0, len(pairs), self.turns)
        ]

    def _conversation(self, name: str, pairs: list[QAPair], images: list[str]) -> dict[str, Any]:
        turns = [
            {"from": speaker, "value": value}
            for one in pairs
            for speaker, value in (("human", one.question), ("gpt", one.answer))
        ]
        if images:
            turns[0]["value"] = "<image>" * len(images) + "\n" + turns[0]["value"]
        category = " ".join(filter(None, (pairs[-1].kind, self.suffix)))
        return {"id": name, "image": images, "conversations": turns, "category": category}


@hookimpl
def vlm_datasets() -> list[type[DatasetConfig]]:
    return [MovingConfig]
