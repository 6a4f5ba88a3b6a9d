"""Converts conversations of transformers, trl and LLaVA into messages and images."""

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


class Talk(NamedTuple):
    """Messages, their images in order, and the system text if the conversation has its own."""

    messages: list[Message]
    images: list[Image.Image]
    system: str | None = None


def _present(item: Any, known: Sequence[str], what: str) -> dict[str, Any]:
    """The keys of an item that hold something (datasets fill absent ones with None); `UserError` for others."""
    if not isinstance(item, Mapping):
        raise UserError(f"{what} {item!r:.80}: expected a dictionary with {' and '.join(known[:2])}")
    found = {key: value for key, value in item.items() if value is not None}
    if odd := [key for key in found if key not in known]:
        raise UserError(f"{what}: {odd[0]!r} is not understood; possible: {', '.join(known)}")
    return found


def talk_of(turns: Any, images: Sequence[Any] = ()) -> Talk:
    """Turns of role and content; `images` are those of items that say `{"type": "image"}` and no more.

    Where no item says so, the images come before the first user's text. A picture is followed by a new line, as in
    training.
    """
    if not isinstance(turns, list | tuple) or not turns:
        raise UserError(
            f"a conversation must be a list of turns, each with role and content, not {turns!r:.80}"
        )
    system, turns = _system(turns)
    waiting, shown, messages = list(images), [], []
    if waiting and not any(_bare(turn) for turn in turns):
        turns = _in_front(turns, len(waiting))
    for turn in turns:
        found = _present(turn, ("role", "content"), "a turn")
        role = found.get("role")
        if role not in ("user", "assistant"):
            raise UserError(f"role {role!r}: expected user or assistant, or one system turn in front of them")
        parts = _parts(found.get("content"), waiting, shown)
        messages.append(Message(role, tuple(parts)))
    if waiting:
        raise UserError(f"{len(waiting)} images without a place in the conversation")
    return Talk(messages, shown, system)


def _system(turns: Sequence[Any]) -> tuple[str | None, Sequence[Any]]:
    """The text of a system turn that stands first, and the other turns."""
    if not isinstance(turns[0], Mapping) or turns[0].get("role") != "system":
        return None, turns
    found = _present(turns[0], ("role", "content"), "a turn")
    parts = _parts(found.get("content"), [], [])
    if not all(isinstance(part, str) for part in parts):
        raise UserError("the system turn holds an image; only text can stand there")
    if len(turns) == 1:
        raise UserError("the conversation is a system turn alone; a user's turn must follow")
    return "".join(part for part in parts if isinstance(part, str)), turns[1:]


def _bare(turn: Any) -> bool:
    """Whether a turn has an image item that names no image."""
    content = turn.get("content") if isinstance(turn, Mapping) else None
    items = content if isinstance(content, list | tuple) else ()
    return any(_is_bare(item) for item in items)


def _is_bare(item: Any) -> bool:
    return (
        isinstance(item, Mapping)
        and item.get("type") == "image"
        and all(item.get(key) is None for key in _SOURCES)
    )


def _in_front(turns: Sequence[Any], count: int) -> list[Any]:
    """Image items before the text of the first user's turn."""
    turns = list(turns)
    for i, turn in enumerate(turns):
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            content = turn.get("content")
            items = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
            turns[i] = {**turn, "content": [*({"type": "image"} for _ in range(count)), *items]}
            break
    return turns


def _parts(content: Any, waiting: list[Any], shown: list[Image.Image]) -> list[Part]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple):
        raise UserError(f"content {content!r:.80}: expected text, or a list of text and images")
    found: list[Part] = []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else item
        if kind == "text":
            found.append(_string(_present(item, ("type", "text"), "a text").get("text")))
        elif kind == "image":
            shown.append(_image(_source(item, waiting)))
            found += [IMAGE, "\n"]
        else:
            raise UserError(f"content of type {kind!r}: expected text or image")
    return found


def _source(item: Any, waiting: list[Any]) -> Any:
    sources = {k: v for k, v in _present(item, ("type", *_SOURCES), "an image").items() if k != "type"}
    if len(sources) > 1:
        raise UserError(f"an image is named twice: {', '.join(sources)}")
    if sources:
        return next(iter(sources.values()))
    return waiting.pop(0) if waiting else None


def _string(text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"text {text!r:.80}: expected a string")
    return text


def llava_talk(turns: Sequence[Any], images: Sequence[Any]) -> Talk:
    """LLaVA's turns of human and gpt, where `<image>` in a human turn is the next of the images.

    A system turn may stand in front.
    """
    system, messages = None, []
    for i, turn in enumerate(turns):
        found = _present(turn, ("from", "value"), "a turn")
        speaker, value = found.get("from"), _string(found.get("value"))
        if speaker == "system" and i == 0:
            system = value
        elif speaker == "gpt":
            messages.append(Message("assistant", (value,)))
        elif speaker == "human":
            messages.append(Message("user", tuple(_with_images(value))))
        else:
            raise UserError(f"from {speaker!r}: expected human or gpt, or one system turn in front of them")
    if not messages:
        raise UserError("the conversation is a system turn alone; a human turn must follow")
    return Talk(messages, [_image(source) for source in images], system)


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
