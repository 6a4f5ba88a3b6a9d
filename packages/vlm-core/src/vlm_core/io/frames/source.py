"""A source of frames: what comes when, and how it becomes an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image

T = TypeVar("T")
TIE = 1e-6
"""Periods by which a frame may be early: times of frames are rounded."""


@dataclass
class FrameSource(Generic[T]):
    """Frames in order of time: (seconds, what `load` makes an RGB image of), so that one left out is not decoded.

    `load` raises `BadSample` for a damaged frame; the next one may be good. `items` raises `UserError` if the source
    ends early. `live` frames come at their own pace; others wait until they are read. `close` makes `items` end.
    """

    name: str
    items: Iterator[tuple[float, T]]
    load: Callable[[T], Image.Image]
    live: bool = False
    close: Callable[[], None] = lambda: None


def no_frames(name: str) -> FrameSource[Image.Image]:
    """A source that has ended."""
    return FrameSource(name, iter(()), decoded)


def decoded(image: Image.Image) -> Image.Image:
    """The `load` of a source whose frames are images already."""
    return image


def limit_fps(items: Iterable[tuple[float, T]], fps: float) -> Iterator[tuple[float, T]]:
    """At most `fps` frames a second: the first one at or after each multiple of 1/fps seconds."""
    period = -1
    for time, item in items:
        if (number := int(time * fps + TIE)) > period:
            period = number
            yield time, item
