"""Frames read into a state as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vlm_core.errors import UserError, shown
from vlm_core.generation.read_history import of_image_input
from vlm_core.generation.watch.fork import Fork, StreamSession
from vlm_core.generation.watch.kept_states import KEEP, Keep, KeptStates
from vlm_core.generation.watch.prompt import WatchPrompt
from vlm_core.io import digests
from vlm_core.io.frames.times import clock, seconds
from vlm_core.units import size
from vlm_core.views.image_views import ImageInput, ImageViews, view_values

if TYPE_CHECKING:
    from vlm_core.text.template import AnyTemplate

Frame = tuple[float, Image.Image | ImageInput]
"""Seconds from the beginning of the stream; an RGB image, or what the encoder takes: pixels, or views."""
log = logging.getLogger(__name__)


class FrameLimit(UserError):
    """`max_frames` frames have been read."""


class ReadFrames(NamedTuple):
    """What a stream's state has read: so many frames, the last one at `time` seconds, and the `positions` of all.

    `sha256` is a digest of the frames after the transform, in order.
    """

    frames: int
    time: float
    positions: int
    sha256: str


class KeptMoment(NamedTuple):
    """A session that has read so many frames, the last one at `time` seconds, and nothing else."""

    session: StreamSession
    frames: int
    time: float


class Watcher:
    """Reads frames into a session's state; each is a turn's next image. Iterating reads one frame a step -> its time.

    A PIL image is one view, as a frame of a video is, also if the model cuts images into tiles. With `as_video`, the
    frames are those of one video, without text in between: as models see videos that were trained on them.

    Time and memory a frame are constant if the model's state has a constant size; if it grows, as a Transformer's does,
    a warning says by how much, and `max_frames` limits it. `keep` says which states are kept for `at`.

    `record` digests each frame, which a file of the state needs (`stream_file.save_stream`). A session that has `read`
    frames continues with them, and with the moments that were `kept`; without any, the present one is kept. Times and
    `max_frames` count from the first frame of all.
    """

    def __init__(
        self,
        session: StreamSession,
        frames: Iterable[Frame],
        template: AnyTemplate,
        *,
        keep: Keep | None = KEEP,
        max_frames: int | None = None,
        as_video: bool = False,
        record: bool = False,
        read: ReadFrames | None = None,
        kept: Iterable[KeptMoment] = (),
    ) -> None:
        if (session.state is None) != (read is None):
            raise UserError("the session has read a prompt already; watch with a new one")
        if max_frames is not None and (type(max_frames) is not int or max_frames < 1):
            raise UserError(
                f"max_frames is {shown(max_frames)}; expected a whole number of at least 1, or None"
            )
        self._session, self._source, self.max_frames = session, frames, max_frames
        self._prompt = WatchPrompt(template, session.model.llm.tokenizer, as_video=as_video)
        self.template, self.kept = template, KeptStates(keep)
        self.frames, self.time = (0, None) if read is None else (read.frames, read.time)
        self._positions = 0 if read is None else read.positions
        self._sha256 = ("" if record else None) if read is None else read.sha256
        self._between: Tensor | None = None
        self._done: torch.cuda.Event | None = None
        if read is not None and keep is not None:
            forks = [Fork(one.session, self._prompt, one.frames, one.time) for one in kept]
            self.kept.restore(forks or [self.fork()], read.time)

    frames: int
    """Number of frames read."""
    time: float | None
    """Seconds of the last one; None before the first."""

    def __iter__(self) -> Iterator[float]:
        for time, image in self._source:
            self.append(time, image)
            yield time

    def append(self, time: float, image: Image.Image | ImageInput) -> None:
        """Read one frame at `time` seconds: an RGB image, pixels (3, h, w) as of the encoder's `transform`, or views.

        Raises `FrameLimit` after `max_frames` frames, and `UserError` for a time before the last frame's; the state
        is then as before.
        """
        if self.max_frames is not None and self.frames >= self.max_frames:
            raise FrameLimit(f"{self.frames} frames have been read, as many as max_frames allows")
        time = seconds(time)
        if self.time is not None and time < self.time:
            raise UserError(f"the frame at {clock(time)} comes after that at {clock(self.time)}")
        image = self._checked(image)
        self._read(image)
        if self._sha256 is not None:
            self._sha256 = digests.of(self._sha256, of_image_input(image))
        self.frames, self.time = self.frames + 1, time
        if self.kept.is_due(time):
            self.kept.add(self.fork())

    def _checked(self, image: Image.Image | ImageInput) -> ImageInput:
        image = (
            image if isinstance(image, Tensor | ImageViews) else self._session.model.encoder.transform(image)
        )
        for pixels in view_values(image):
            if pixels.ndim != 3 or len(pixels) != 3 or not pixels.is_floating_point():
                shape = tuple(pixels.shape)
                raise UserError(
                    f"a frame is {pixels.dtype} of shape {shape}; expected floats (3, height, width)"
                )
        return image

    @torch.inference_mode()
    def _read(self, image: ImageInput) -> None:
        text, size_before = self._text(), self.nbytes if self.frames == 1 else 0
        if self._done is not None:  # one frame at most waits on the GPU
            self._done.synchronize()
        x = torch.cat([text, self._image_embeds(image).to(text)], dim=1)
        self._session.append_embeds(x)
        self._positions += x.shape[1]
        if text.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record()
        if self.frames == 1 and self.nbytes > size_before:
            self._tell_growth(self.nbytes - size_before)

    def _image_embeds(self, image: ImageInput) -> Tensor:
        """(1, L, M): the positions of one frame."""
        model = self._session.model
        pixels = torch.stack(view_values(image)).to(next(model.llm.parameters()).device)
        order = image.order if isinstance(image, ImageViews) else None
        embeds = model.arrange(model.encode_images(pixels), order).flatten(0, 1)
        return embeds[: model.image_tokens(image)].unsqueeze(0)

    def _text(self) -> Tensor:
        """Embeddings (1, T, M) of the text before the next frame; T may be 0."""
        llm = self._session.model.llm
        device = next(llm.parameters()).device
        if not self.frames:
            return llm.embed(torch.tensor([self._prompt.before], dtype=torch.long, device=device))
        if self._between is None:
            self._between = llm.embed(torch.tensor([self._prompt.between], dtype=torch.long, device=device))
        return self._between

    def _tell_growth(self, nbytes: int) -> None:
        limit = "max_frames would limit it"
        if self.max_frames is not None:
            limit = f"{self.max_frames} frames may take {size(nbytes * self.max_frames)}"
        log.warning(
            "this model's state grows with the frames, by %s with the second one; %s", size(nbytes), limit
        )

    @property
    def session(self) -> StreamSession:
        """The session after the last frame, which `append` continues; `fork` gives one of its own."""
        return self._session

    @property
    def as_video(self) -> bool:
        """Whether the frames are those of one video."""
        return self._prompt.as_video

    @property
    def read(self) -> ReadFrames | None:
        """What has been read; None before the first frame, and unless it is recorded."""
        if self.time is None or self._sha256 is None:
            return None
        return ReadFrames(self.frames, self.time, self._positions, self._sha256)

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return 0 if self._session.state is None else self._session.state.nbytes

    def fork(self) -> Fork:
        """The present moment, for questions; watching goes on without changing it."""
        return Fork(self._session.fork(), self._prompt, self.frames, self.time)

    def at(self, time: str | float) -> Fork:
        """The newest kept moment at or before a time such as `01:12:00`, or the present one if that is the time.

        Raises `UserError` for a time that has not come yet or of which nothing is kept.
        """
        moment = seconds(time)
        if self.time is None or moment > self.time:
            last = (
                "no frame has been read" if self.time is None else f"the last frame is at {clock(self.time)}"
            )
            raise UserError(f"{clock(moment)} has not come yet: {last}")
        return self.fork() if moment == self.time else self.kept.at(moment)
