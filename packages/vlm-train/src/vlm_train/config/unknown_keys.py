"""What no row format reads: a key whose name suggests content is a fault, and so is another library's placeholder.

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
"""Names of keys for text, or for how a row is learnt."""
_PREFERENCE = re.compile(r"(chosen|rejected)(_.*)?")
_MEDIA = re.compile(
    r"(?:images?|imgs?|pictures?|pics?|photos?|frames?|videos?|audios?)_?(?:\d+|data|bytes|base64|b64|list)?"
)
_LOCATION = re.compile(
    r"(?:image|img|picture|pic|photo|video|audio)_?(?:paths?|files?|urls?|names?)|file_?names?"
    r"|(?:image|img|picture|pic|photo)_?ids?"
)
"""Where an image or clip comes from: metadata beside an image, but all that there is without one."""
_VIDEO_OR_AUDIO = re.compile(r"(video|audio)")
_PLACE = frozenset(("path", "paths", "file", "files", "filepath", "file_path", "url", "urls", "uri"))
_IMAGE_FILE = re.compile(r".+\.(?:avif|bmp|gif|jpe?g|jp2|png|tiff?|webp)", re.IGNORECASE | re.DOTALL)
"""A place is metadata, unless it is an image file and the row has no image otherwise."""
_WEIGHTS = frozenset(("weight", "sample_weight"))
_MARK = re.compile(
    r"<img>[^<>]*</img>|<(?:image|img|video|audio)[_-]?\d+>"
    r"|<\|(?:image|video|audio|vision)(?:_\w+|\d+)?\|>|^\s*<(?:video|audio)>(?!.*</(?:video|audio)>)",
    re.DOTALL,
)
"""Where other libraries put images and clips. HTML in a text holds none of these: its `<video>` is closed."""


def is_empty(value: Any) -> bool:
    """None, no text, no bytes, or a container of nothing else: parquet fills keys that a row doesn't have."""
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or value in ("", b"")


def check_marks(text: str, where: str) -> None:
    """Raise `BadSample` for a text in which another library would put an image or a clip."""
    if mark := _MARK.search(text):
        seen = mark[0].strip()
        raise BadSample(
            "placeholders", f"{where}: {seen!r:.60} is not read; an image of the row stands at '<image>'"
        )


def suggests_content(key: str) -> bool:
    """Whether a key's name suggests content to learn from."""
    name = key.lower()
    patterns = (_PREFERENCE, _MEDIA, _LOCATION)
    return name in CONTENT or any(pattern.fullmatch(name) for pattern in patterns)


def must_be_looked_at(key: str) -> bool:
    """Whether `check_unread` has to see a key's value: a table reads no other columns."""
    return suggests_content(key) or key.lower() in _WEIGHTS | _PLACE


def _is_origin(key: str) -> bool:
    """Whether a key's name suggests the origin of an image."""
    name = key.lower()
    return bool(_LOCATION.fullmatch(name)) and not _VIDEO_OR_AUDIO.match(name)


def _says_more(key: str, value: Any, images: int) -> bool:
    """Whether a key that is metadata elsewhere says here which image a row has, or how much it counts."""
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
    """Raise `BadSample` for a key that holds content and is not among those that are `read`.

    `possible` are the keys that could be meant, `images` is how many images the row has otherwise.
    """
    for key, value in record.items():
        if (
            key in read
            or is_empty(value)
            or not (suggests_content(str(key)) or _says_more(key, value, images))
        ):
            continue
        if images and _is_origin(key):
            continue
        near = difflib.get_close_matches(str(key)[:60].lower(), sorted(possible), n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != key else ""
        raise BadSample("schema", f"{where}: {key!r} is not read, but holds {value!r:.60}{hint}")
