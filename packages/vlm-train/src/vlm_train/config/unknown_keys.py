"""Refuses rows with content that no format reads: keys whose names suggest content, placeholders of other libraries.

Other keys are metadata and ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from vlm_core.errors import BadSample

CONTENT = frozenset(
    ["tool", "tools", "tool_call", "tool_calls", "tool_responses", "function", "functions", "function_call",
     "observation", "label", "labels", "kto_tag", "objects", "bbox", "bboxes", "boxes", "masks", "segmentation",
     "ref", "system", "system_prompt", "system_message", "history", "input", "context", "passage", "hint", "choices",
     "options", "message", "dialog", "dialogs", "dialogue", "dialogues", "chat", "chats", "captions", "prompt",
     "prompts", "completion", "completions", "inputs", "media", "reasoning", "reasoning_content",
     "thinking", "loss", "loss_scale", "loss_weight"]
)  # fmt: skip
"""Names of keys with text, or with settings of the loss."""
_PREFERENCE = re.compile(r"(chosen|rejected)(_.*)?")
_MEDIA = re.compile(
    r"(?:images?|imgs?|pictures?|pics?|photos?|frames?|videos?|audios?)_?(?:\d+|data|bytes|base64|b64|list)?"
)
_LOCATION = re.compile(
    r"(?:image|img|picture|pic|photo|video|audio)_?(?:paths?|files?|urls?|names?)|file_?names?"
    r"|(?:image|img|picture|pic|photo)_?ids?"
)
"""Origin of an image or clip: metadata if the row has an image, else content."""
_VIDEO_OR_AUDIO = re.compile(r"(video|audio)")
_PLACE = frozenset(("path", "paths", "file", "files", "filepath", "file_path", "url", "urls", "uri"))
_IMAGE_FILE = re.compile(r".+\.(?:avif|bmp|gif|jpe?g|jp2|png|tiff?|webp)", re.IGNORECASE | re.DOTALL)
"""A value of a `_PLACE` key that is an image file; it is content if the row has no other image."""
_WEIGHTS = frozenset(("weight", "sample_weight"))
_MARK = re.compile(
    r"<img>[^<>]*</img>|<(?:image|img|video|audio)[_-]?\d+>"
    r"|<\|(?:image|video|audio|vision)(?:_\w+|\d+)?\|>|^\s*<(?:video|audio)>(?!.*</(?:video|audio)>)",
    re.DOTALL,
)
"""Placeholders of other libraries for images and clips. HTML in a text does not match: its `<video>` is closed."""


def is_empty(value: Any) -> bool:
    """Whether a value is None, empty, or a container of empty values: parquet fills keys that a row doesn't have."""
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or value in ("", b"")


def check_marks(text: str, where: str) -> None:
    """Raise `BadSample` for a text with a placeholder of another library."""
    if match := _MARK.search(text):
        mark = match[0].strip()
        raise BadSample(
            "placeholders", f"{where}: {mark!r:.60} is not read; the placeholder of an image is '<image>'"
        )


def suggests_content(key: str) -> bool:
    """Whether a key's name suggests content to train on."""
    name = key.lower()
    patterns = (_PREFERENCE, _MEDIA, _LOCATION)
    return name in CONTENT or any(pattern.fullmatch(name) for pattern in patterns)


def must_be_looked_at(key: str) -> bool:
    """Whether `check_unread` needs a key's value; other columns of a table are not read."""
    return suggests_content(key) or key.lower() in _WEIGHTS | _PLACE


def _is_origin(key: str) -> bool:
    """Whether a key's name suggests the origin of an image."""
    name = key.lower()
    return bool(_LOCATION.fullmatch(name)) and not _VIDEO_OR_AUDIO.match(name)


def _is_content_here(key: str, value: Any, images: int) -> bool:
    """Whether a key that is metadata in most rows is content in this one: its only image, or a loss weight."""
    name = str(key).lower()
    if name in _WEIGHTS:
        return value != 1
    values = value if isinstance(value, list) else [value]
    return (
        name in _PLACE and not images and any(isinstance(v, str) and _IMAGE_FILE.fullmatch(v) for v in values)
    )


def check_unread(
    record: Mapping[str, Any], read: Collection[str], where: str, possible: Collection[str], images: int = 0
) -> None:
    """Raise `BadSample` for a key with content that is not in `read`.

    `possible` are keys for hints, `images` is the number of other images of the row.
    """
    for key, value in record.items():
        if (
            key in read
            or is_empty(value)
            or not (suggests_content(str(key)) or _is_content_here(key, value, images))
        ):
            continue
        if images and _is_origin(key):
            continue
        near = difflib.get_close_matches(str(key)[:60].lower(), sorted(possible), n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != key else ""
        raise BadSample("schema", f"{where}: {key!r} is not read, but holds {value!r:.60}{hint}")
