"""Videos as callers in Python give them: a file, or frames as images or as one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from vlm_core.errors import UserError
from vlm_core.io.video.sources import MAX_FRAMES, VideoSource

_REMOTE = ("http://", "https://", "data:")


class VideoFrames(NamedTuple):
    """The frames of a video in order of time; all of them are read."""

    frames: list[Image.Image]


Medium = Image.Image | VideoSource | VideoFrames
"""What stands in an image slot of a conversation."""


def parse_video(source: Any, parse_image: Callable[[Any], Image.Image]) -> VideoSource | VideoFrames:
    """A path, a list of images, or bytes (T, height, width, 3) or (T, 3, height, width), as an array or tensor."""
    if isinstance(source, str) and source.startswith(_REMOTE):
        raise UserError(f"videos: {source:.60}: videos are not downloaded; save it as a file")
    if isinstance(source, str | Path):
        return VideoSource(source)
    if _dimensions(source) == 4:
        frames = _frames_of(source)
    elif isinstance(source, list | tuple):
        frames = [parse_image(_frame(one)) for one in source]
    else:
        raise UserError(
            f"videos: a video must be a path, a list of images or an array of frames, not {type(source).__name__}"
        )
    if not 0 < len(frames) <= MAX_FRAMES:
        raise UserError(f"videos: {len(frames)} frames; expected 1 to {MAX_FRAMES}")
    return VideoFrames(frames)


def video_lists(videos: Any, texts: int) -> list[list[Any]]:
    """The videos of each text, from one video, a video per text, all videos of one text, or a list per text."""
    if not isinstance(videos, list | tuple) or _is_frames(videos):
        return [[videos]]
    if any(isinstance(row, list | tuple) and not _is_frames(row) for row in videos):
        rows = [[] if row is None else row for row in videos]
        return [list(r) if isinstance(r, list | tuple) and not _is_frames(r) else [r] for r in rows]
    return [list(videos)] if texts == 1 else [[] if video is None else [video] for video in videos]


def _dimensions(value: Any) -> int:
    shape = getattr(value, "shape", None)
    return len(shape) if isinstance(shape, Sequence) else 0


def _is_frames(value: Any) -> bool:
    """Whether a value is a list of frames, not of videos."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(one, Image.Image) or _dimensions(one) == 3 for one in value)
    )


def _frame(frame: Any) -> Any:
    """A frame that is an array of three dimensions as an image; others unchanged."""
    if _dimensions(frame) != 3:
        return frame
    return _frames_of(torch.as_tensor(frame).unsqueeze(0))[0]


def _frames_of(array: Any) -> list[Image.Image]:
    """The frames of bytes (T, height, width, 3) or (T, 3, height, width)."""
    tensor = torch.as_tensor(array)
    if tensor.shape[3] != 3 and tensor.shape[1] == 3:
        tensor = tensor.permute(0, 2, 3, 1)
    if tensor.dtype != torch.uint8 or tensor.shape[3] != 3 or 0 in tensor.shape:
        seen = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise UserError(
            f"videos: {seen}; expected bytes (frames, height, width, 3) or (frames, 3, height, width)"
        )
    return [Image.fromarray(frame.numpy()) for frame in tensor.cpu().contiguous()]
