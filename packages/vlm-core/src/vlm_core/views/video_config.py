"""The spec key `views.video`: which frames of a video are read."""

from __future__ import annotations

from pydantic import Field, model_validator

from vlm_core.io.sources import DEFAULT_MAX_FRAMES, MAX_FPS, MAX_FRAMES, Sampling
from vlm_core.plugins.config import StrictModel


class VideoConfig(StrictModel):
    """Which frames of a video are read, unless its row says otherwise; give frames or fps."""

    frames: int | None = Field(
        default=None, ge=1, le=MAX_FRAMES, description="so many, evenly spaced from the first to the last"
    )
    fps: float | None = Field(
        default=None, gt=0, le=MAX_FPS, description="so many a second, from the first on"
    )
    max_frames: int | None = Field(
        default=None,
        ge=1,
        le=MAX_FRAMES,
        description=f"with fps: a longer video has so many, evenly spaced; default {DEFAULT_MAX_FRAMES}",
    )

    @model_validator(mode="after")
    def _one_way(self) -> VideoConfig:
        self.sampling()
        return self

    def sampling(self) -> Sampling:
        """The sampling; raises `UserError` unless exactly one of `frames` and `fps` is given."""
        return Sampling(self.frames, self.fps, self.max_frames)
