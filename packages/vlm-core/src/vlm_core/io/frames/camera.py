"""Frames from a V4L2 camera, by PyAV."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_core.errors import UserError, one_line
from vlm_core.io.frames.source import FrameSource
from vlm_core.io.video.container import pyav
from vlm_core.io.video.decode import rgb_image


def is_device(path: Path) -> bool:
    """Whether the path is a character device, as cameras are."""
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def camera_frames(path: Path) -> FrameSource[Any]:
    """The frames of a camera such as /dev/video0, from the first one on; raises `UserError` if it can't be read."""
    if sys.platform != "linux":
        raise UserError(f"{path}: cameras are read on Linux only (V4L2)")
    av = pyav()
    try:
        container = av.open(str(path), format="v4l2")
    except (av.error.FFmpegError, OSError, ValueError) as error:  # the last one: a build without V4L2
        raise UserError(f"{path}: not a camera that can be read: {one_line(error)}") from None
    return FrameSource(str(path), _frames(container, path), _load, live=True)


def _frames(container: Any, path: Path) -> Iterator[tuple[float, Any]]:
    begin = None
    try:
        for frame in container.decode(video=0):
            begin = frame.time if begin is None else begin
            yield frame.time - begin, frame
    except pyav().error.FFmpegError as error:  # unplugged
        raise UserError(f"{path}: the camera has stopped: {one_line(error)}") from None
    finally:
        container.close()


def _load(frame: Any) -> Image.Image:
    return rgb_image(frame)
