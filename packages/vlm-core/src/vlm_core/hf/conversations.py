"""Parses conversations of transformers, trl and LLaVA into messages, images and videos."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps
from transformers.image_utils import load_image as fetch_image

from vlm_core.errors import UserError
from vlm_core.io.images import decode_image, load_image, to_rgb
from vlm_core.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from vlm_core.text.render import IMAGE, Message, Part
from vlm_core.views.given_videos import Medium, parse_video

_REMOTE = ("http://", "https://", "data:")
_SOURCES = {"image": ("image", "url", "path", "base64"), "video": ("video", "url", "path")}
"""Keys of an item that name its image or video."""


class ParsedConversation(NamedTuple):
    """Messages, their images and videos in order, and the conversation's own system prompt or None."""

    messages: list[Message]
    images: list[Medium]
    system: str | None = None


def _present(item: Any, known: Sequence[str], what: str) -> dict[str, Any]:
    """The keys of an item whose value is not None (`datasets` fills absent keys); `UserError` for unknown keys."""
    if not isinstance(item, Mapping):
        raise UserError(f"{what} {item!r:.80}: expected a dictionary with {' and '.join(known[:2])}")
    values = {key: value for key, value in item.items() if value is not None}
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{what}: {unknown[0]!r} is not understood; possible: {', '.join(known)}")
    return values


def parse_messages(turns: Any, images: Sequence[Any] = (), videos: Sequence[Any] = ()) -> ParsedConversation:
    """Parse turns of role and content. `images` fill the items `{"type": "image"}` that name no image, in order.

    Without such items, the images go before the first user's text. `videos` are placed alike, after the images. Each is
    followed by a line feed, as in training. Raises `UserError` for what can't be parsed, and for those left over.
    """
    if not isinstance(turns, list | tuple) or not turns:
        raise UserError(
            f"a conversation must be a list of turns, each with role and content, not {turns!r:.80}"
        )
    system, turns = _system(turns)
    unplaced, placed, messages = {"video": list(videos), "image": list(images)}, [], []
    for kind, sources in unplaced.items():  # images are put before the videos
        if sources and not any(_has_slot(turn, kind) for turn in turns):
            turns = _with_slots(turns, kind, len(sources))
    for turn in turns:
        values = _present(turn, ("role", "content"), "a turn")
        role = values.get("role")
        if role not in ("user", "assistant"):
            raise UserError(f"role {role!r}: expected user or assistant, or one system turn in front of them")
        parts = _parts(values.get("content"), unplaced, placed)
        messages.append(Message(role, tuple(parts)))
    for kind, sources in unplaced.items():
        if sources:
            raise UserError(f"{len(sources)} {kind}s without a place in the conversation")
    return ParsedConversation(messages, placed, system)


def _system(turns: Sequence[Any]) -> tuple[str | None, Sequence[Any]]:
    """The text of a system turn at the start, and the other turns."""
    if not isinstance(turns[0], Mapping) or turns[0].get("role") != "system":
        return None, turns
    values = _present(turns[0], ("role", "content"), "a turn")
    parts = _parts(values.get("content"), {"image": [], "video": []}, [])
    if not all(isinstance(part, str) for part in parts):
        raise UserError("the system turn has an image; expected text only")
    if len(turns) == 1:
        raise UserError("the conversation has only a system turn; expected a user turn after it")
    return "".join(part for part in parts if isinstance(part, str)), turns[1:]


def _has_slot(turn: Any, kind: str) -> bool:
    """Whether a turn has an item of an image or video that names none."""
    content = turn.get("content") if isinstance(turn, Mapping) else None
    items = content if isinstance(content, list | tuple) else ()
    return any(
        isinstance(item, Mapping)
        and item.get("type") == kind
        and all(item.get(key) is None for key in _SOURCES[kind])
        for item in items
    )


def _with_slots(turns: Sequence[Any], kind: str, count: int) -> list[Any]:
    """The turns with `count` items of an image or video before the first user's text."""
    turns = list(turns)
    for i, turn in enumerate(turns):
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            content = turn.get("content")
            items = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
            turns[i] = {**turn, "content": [*({"type": kind} for _ in range(count)), *items]}
            break
    return turns


def _parts(content: Any, unplaced: Mapping[str, list[Any]], placed: list[Medium]) -> list[Part]:
    """The parts of a turn; its images and videos go to `placed`, those of its slots are taken out of `unplaced`."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        raise UserError(f"content {content!r:.80}: expected text, or a list of text, images and videos")
    parts: list[Part] = []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else item
        if kind == "text":
            parts.append(_string(_present(item, ("type", "text"), "a text").get("text")))
        elif kind in _SOURCES:
            placed.append(_medium(kind, _source(item, kind, unplaced[kind])))
            parts += [IMAGE, "\n"]
        else:
            raise UserError(f"content of type {kind!r}: expected text, image or video")
    return parts


def _medium(kind: str, source: Any) -> Medium:
    return _image(source) if kind == "image" else parse_video(source, _image)


def _source(item: Any, kind: str, unplaced: list[Any]) -> Any:
    what = f"a{'n' * (kind == 'image')} {kind}"
    sources = {k: v for k, v in _present(item, ("type", *_SOURCES[kind]), what).items() if k != "type"}
    if len(sources) > 1:
        raise UserError(f"{what} is named twice: {', '.join(sources)}")
    if sources:
        return next(iter(sources.values()))
    return unplaced.pop(0) if unplaced else None


def _string(text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"text {text!r:.80}: expected a string")
    return text


def parse_llava(
    turns: Sequence[Any], images: Sequence[Any], videos: Sequence[Any] = ()
) -> ParsedConversation:
    """Parse LLaVA's turns of human and gpt; each `<image>` in a human turn takes the next of `images`.

    In a row with `videos` each `<video>` takes the next one. The first turn may be a system turn. Raises `UserError`
    for what can't be parsed.
    """
    system, messages, kinds = None, [], list[str]()
    marks = {IMAGE_PLACEHOLDER: "image"}
    if videos:  # as in training: without images, `<image>` is a video, too
        marks = {IMAGE_PLACEHOLDER: "image" if images else "video", VIDEO_PLACEHOLDER: "video"}
    for i, turn in enumerate(turns):
        values = _present(turn, ("from", "value"), "a turn")
        speaker, value = values.get("from"), _string(values.get("value"))
        if speaker == "system" and i == 0:
            system = value
        elif speaker == "gpt":
            messages.append(Message("assistant", (value,)))
        elif speaker == "human":
            pieces = [piece for piece in re.split(f"({'|'.join(marks)})", value) if piece]
            kinds += [marks[piece] for piece in pieces if piece in marks]
            messages.append(Message("user", tuple(IMAGE if piece in marks else piece for piece in pieces)))
        else:
            raise UserError(f"from {speaker!r}: expected human or gpt, or one system turn in front of them")
    if not messages:
        raise UserError("the conversation has only a system turn; expected a human turn after it")
    return ParsedConversation(
        messages, _in_order(kinds, {"image": list(images), "video": list(videos)}), system
    )


def _in_order(kinds: Sequence[str], sources: Mapping[str, Sequence[Any]]) -> list[Medium]:
    """The images and videos in the order of their placeholders; raises `UserError` unless each has one."""
    for kind, given in sources.items():
        if (count := kinds.count(kind)) != len(given):
            raise UserError(f"the conversation has {count} places of {kind}s but {len(given)} {kind}s")
    following = {kind: iter(given) for kind, given in sources.items()}
    return [_medium(kind, next(following[kind])) for kind in kinds]


def _image(source: Any) -> Image.Image:
    """A Pillow image, a file, a URL, base64 text, or the dictionary of an undecoded `datasets` image."""
    if isinstance(source, Image.Image):
        return to_rgb(ImageOps.exif_transpose(source))
    if isinstance(source, Mapping) and set(source) <= {"bytes", "path"}:
        if source.get("bytes") is not None:
            return decode_image(source["bytes"], str(source.get("path") or "an image"))
        source = source.get("path")
    if isinstance(source, str | Path) and not str(source).startswith(_REMOTE) and len(str(source)) < 4096:
        return load_image(source)
    if isinstance(source, str):
        return fetch_image(source)
    raise UserError(
        f"an image must be a Pillow image, a path, a URL or base64 text, not {type(source).__name__}"
    )
