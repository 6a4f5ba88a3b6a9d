"""Reads the value of a video in a row: where it is, as an image's, and which of its frames are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_core.errors import BadSample, UserError
from vlm_core.io.video.sources import FileSource, ImageSource, Sampling, VideoSource
from vlm_train.config.unknown_keys import is_empty
from vlm_train.data.conversation.image_values import media_value

SAMPLING = ("fps", "frames", "nframes", "max_frames")
"""Keys that say which frames of a video are read; `nframes` is another name of `frames`."""


@dataclass(frozen=True)
class RowVideo:
    """A video as it stands in a row: a name or an `InlineImage`, and the row's own sampling, if it has one."""

    value: Any
    sampling: Sampling | None = None

    def decode(self, where: str) -> bytes:
        """The bytes of an inline video, as `InlineImage.decode`."""
        return self.value.decode(where)


def value_of(image: Any) -> Any:
    """The name or inline file of an image or video of a row."""
    return image.value if isinstance(image, RowVideo) else image


def source_of(image: Any, file: Callable[[Any], FileSource]) -> ImageSource:
    """The source of an image or video of a row; `file` gives the one of a name or inline file."""
    source = file(value_of(image))
    return VideoSource(source, image.sampling) if isinstance(image, RowVideo) else source


def video_value(value: Any, where: str) -> RowVideo:
    """A video by name, inline, or a mapping of either with keys of `SAMPLING`; raises `BadSample`."""
    if isinstance(value, RowVideo):
        return value
    sampling = None
    if isinstance(value, Mapping):
        sampling = sampling_of(value, where)
        value = {key: item for key, item in value.items() if key not in SAMPLING}
    return RowVideo(media_value(value, where, "video"), sampling)


def sampling_of(mapping: Mapping[str, Any], where: str) -> Sampling | None:
    """The sampling that a mapping says; None if it has none of its keys. Raises `BadSample` for an impossible one."""
    filled = {key: mapping[key] for key in SAMPLING if not is_empty(mapping.get(key))}
    if "nframes" in filled:
        if "frames" in filled:
            raise BadSample("schema", f"{where}: frames and nframes are the same; give one")
        filled["frames"] = filled.pop("nframes")
    if not filled:
        return None
    try:
        return Sampling(**filled)
    except UserError as error:
        raise BadSample("schema", f"{where}: {error}") from None
