"""Parses conversations of transformers, trl and LLaVA into messages and images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps
from transformers.image_utils import load_image as fetch_image

from vlm_core.errors import UserError
from vlm_core.io.images import decode_image, load_image, to_rgb
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.text.render import IMAGE, Message, Part

_REMOTE = ("http://", "https://", "data:")
_SOURCES = ("image", "url", "path", "base64")


class ParsedConversation(NamedTuple):
    """Messages, their images in order, and the conversation's own system prompt or None."""

    messages: list[Message]
    images: list[Image.Image]
    system: str | None = None


def _present(item: Any, known: Sequence[str], what: str) -> dict[str, Any]:
    """The keys of an item whose value is not None (`datasets` fills absent keys); `UserError` for unknown keys."""
    if not isinstance(item, Mapping):
        raise UserError(f"{what} {item!r:.80}: expected a dictionary with {' and '.join(known[:2])}")
    values = {key: value for key, value in item.items() if value is not None}
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{what}: {unknown[0]!r} is not understood; possible: {', '.join(known)}")
    return values


def parse_messages(turns: Any, images: Sequence[Any] = ()) -> ParsedConversation:
    """Parse turns of role and content. `images` fill the items `{"type": "image"}` that name no image, in order.

    Without such items, the images go before the first user's text. Each image is followed by a line feed, as in
    training. Raises `UserError` for what can't be parsed, and for images that are left over.
    """
    if not isinstance(turns, list | tuple) or not turns:
        raise UserError(
            f"a conversation must be a list of turns, each with role and content, not {turns!r:.80}"
        )
    system, turns = _system(turns)
    unplaced, placed, messages = list(images), [], []
    if unplaced and not any(_has_image_slot(turn) for turn in turns):
        turns = _with_image_slots(turns, len(unplaced))
    for turn in turns:
        values = _present(turn, ("role", "content"), "a turn")
        role = values.get("role")
        if role not in ("user", "assistant"):
            raise UserError(f"role {role!r}: expected user or assistant, or one system turn in front of them")
        parts = _parts(values.get("content"), unplaced, placed)
        messages.append(Message(role, tuple(parts)))
    if unplaced:
        raise UserError(f"{len(unplaced)} images without a place in the conversation")
    return ParsedConversation(messages, placed, system)


def _system(turns: Sequence[Any]) -> tuple[str | None, Sequence[Any]]:
    """The text of a system turn at the start, and the other turns."""
    if not isinstance(turns[0], Mapping) or turns[0].get("role") != "system":
        return None, turns
    values = _present(turns[0], ("role", "content"), "a turn")
    parts = _parts(values.get("content"), [], [])
    if not all(isinstance(part, str) for part in parts):
        raise UserError("the system turn has an image; expected text only")
    if len(turns) == 1:
        raise UserError("the conversation has only a system turn; expected a user turn after it")
    return "".join(part for part in parts if isinstance(part, str)), turns[1:]


def _has_image_slot(turn: Any) -> bool:
    """Whether a turn has an image item that names no image."""
    content = turn.get("content") if isinstance(turn, Mapping) else None
    items = content if isinstance(content, list | tuple) else ()
    return any(_is_image_slot(item) for item in items)


def _is_image_slot(item: Any) -> bool:
    return (
        isinstance(item, Mapping)
        and item.get("type") == "image"
        and all(item.get(key) is None for key in _SOURCES)
    )


def _with_image_slots(turns: Sequence[Any], count: int) -> list[Any]:
    """The turns with `count` image items before the first user's text."""
    turns = list(turns)
    for i, turn in enumerate(turns):
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            content = turn.get("content")
            items = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
            turns[i] = {**turn, "content": [*({"type": "image"} for _ in range(count)), *items]}
            break
    return turns


def _parts(content: Any, unplaced: list[Any], placed: list[Image.Image]) -> list[Part]:
    """The parts of a turn; its images are appended to `placed`, those of its slots taken out of `unplaced`."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        raise UserError(f"content {content!r:.80}: expected text, or a list of text and images")
    parts: list[Part] = []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else item
        if kind == "text":
            parts.append(_string(_present(item, ("type", "text"), "a text").get("text")))
        elif kind == "image":
            placed.append(_image(_source(item, unplaced)))
            parts += [IMAGE, "\n"]
        else:
            raise UserError(f"content of type {kind!r}: expected text or image")
    return parts


def _source(item: Any, unplaced: list[Any]) -> Any:
    sources = {k: v for k, v in _present(item, ("type", *_SOURCES), "an image").items() if k != "type"}
    if len(sources) > 1:
        raise UserError(f"an image is named twice: {', '.join(sources)}")
    if sources:
        return next(iter(sources.values()))
    return unplaced.pop(0) if unplaced else None


def _string(text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"text {text!r:.80}: expected a string")
    return text


def parse_llava(turns: Sequence[Any], images: Sequence[Any]) -> ParsedConversation:
    """Parse LLaVA's turns of human and gpt; each `<image>` in a human turn takes the next of `images`.

    The first turn may be a system turn. Raises `UserError` for what can't be parsed.
    """
    system, messages = None, []
    for i, turn in enumerate(turns):
        values = _present(turn, ("from", "value"), "a turn")
        speaker, value = values.get("from"), _string(values.get("value"))
        if speaker == "system" and i == 0:
            system = value
        elif speaker == "gpt":
            messages.append(Message("assistant", (value,)))
        elif speaker == "human":
            messages.append(Message("user", tuple(_with_images(value))))
        else:
            raise UserError(f"from {speaker!r}: expected human or gpt, or one system turn in front of them")
    if not messages:
        raise UserError("the conversation has only a system turn; expected a human turn after it")
    return ParsedConversation(messages, [_image(source) for source in images], system)


def _with_images(text: str) -> Iterator[Part]:
    for i, part in enumerate(text.split(IMAGE_PLACEHOLDER)):
        if i:
            yield IMAGE
        if part:
            yield part


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
