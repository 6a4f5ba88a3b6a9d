"""A video as the model takes it: its sampled frames, each a view of the encoder's size, in order of time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from vlm_core.io.video.decode import sample_video
from vlm_core.io.video.header import frame_count
from vlm_core.io.video.sources import DEFAULT_SAMPLING, Sampling, VideoSource
from vlm_core.views.image_views import ImageViews
from vlm_core.views.layout import PlainLayout

log = logging.getLogger(__name__)
_MISSING: ContextVar[list[int] | None] = ContextVar("missing_frames", default=None)


@contextmanager
def missing_frames() -> Iterator[list[int]]:
    """A list to which the number of missing or damaged frames is appended for each video that has some."""
    counts: list[int] = []
    token = _MISSING.set(counts)
    try:
        yield counts
    finally:
        _MISSING.reset(token)


@dataclass(frozen=True)
class VideoProcessor:
    """Makes the input of one video; may be pickled for a worker process.

    `transform` is the encoder's: a frame has one view, also where `views` cuts images into tiles. `tokens` are those of
    a frame after the connector. `sampling` is for videos that have none of their own.
    """

    transform: Callable[[Image.Image], Tensor]
    tokens: int
    sampling: Sampling = DEFAULT_SAMPLING
    _logged: set[str] = field(default_factory=set, repr=False, compare=False)

    def sampling_of(self, source: VideoSource) -> Sampling:
        """The sampling that a video is read with."""
        return source.sampling or self.sampling

    def layout(self, source: VideoSource) -> PlainLayout:
        """Number of frames, and thus of positions, from the header alone; raises `BadSample`."""
        return PlainLayout(frame_count(source.file, self.sampling_of(source)), self.tokens)

    def __call__(self, source: VideoSource) -> ImageViews:
        """The frames of a video as views (V, 3, h, w); raises `BadSample` as `sample_video`.

        Missing and damaged frames are logged and counted by `missing_frames`.
        """
        sampled = sample_video(source.file, self.sampling_of(source), self.transform)
        if sampled.missing:
            if source.name not in self._logged:  # an epoch reads it again
                self._logged.add(source.name)
                text = (
                    "%s: %d of %d frames are missing or damaged; the nearest good one before stands for each"
                )
                log.warning(text, source.name, sampled.missing, len(sampled.frames))
            if (counts := _MISSING.get()) is not None:
                counts.append(sampled.missing)
        return ImageViews(torch.stack(sampled.frames))
