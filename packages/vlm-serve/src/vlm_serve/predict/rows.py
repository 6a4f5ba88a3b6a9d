"""The rows of a JSON lines file: questions or conversations, and the files of their images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlm_core.errors import UserError, shown
from vlm_core.io import digests
from vlm_core.io.files import read_bytes, read_file
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.strict_json import parse_strict
from vlm_core.remote import Part, image_part

Message = dict[str, Any]
RowId = str | int
_KEYS = ("id", "image", "images", "question", "messages")
_SLOT = {"type": "image"}
_NAMED = 5
"""Faults that a message names."""
_LINKS = "--images, naming the folder that it leads to"


class Fault(NamedTuple):
    """A row without an answer: its id if it is known, and what is wrong, with its line."""

    id: RowId | None
    text: str


@dataclass(frozen=True)
class Row:
    """A row; `messages` are those of a chat completion, with `{"type": "image"}` in the place of each image."""

    id: RowId
    where: str
    messages: tuple[Message, ...]
    images: tuple[Path, ...] = ()

    def read_images(self) -> list[bytes]:
        """The bytes of the images' files; raises `BadSample` for one that can't be read."""
        return [read_file(path) for path in self.images]

    def digest(self, images: Sequence[bytes]) -> str:
        """Digest of the messages and of the bytes of the images."""
        return digests.of("row", self.messages, [hashlib.sha256(data).hexdigest() for data in images])[:32]

    def with_images(self, images: Sequence[bytes]) -> list[Message]:
        """The messages with the images as data URLs; raises `BadSample` for bytes that are no usable image."""
        names = [f"image {path.name}" for path in self.images]
        parts = (image_part(data, name) for data, name in zip(images, names, strict=True))
        return [{**message, "content": _filled(message["content"], parts)} for message in self.messages]


def read_rows(path: Path, folder: Path | None = None) -> tuple[list[Row], list[Fault]]:
    """The rows of a file, and the faults of those that can't be asked; images are inside `folder`, or the file's own.

    Raises `UserError` for a file that can't be read, or has no row that can be asked.
    """
    images = ImageFolder(str(folder or path.parent), option=_LINKS)
    rows: dict[RowId, Row] = {}
    faults: list[Fault] = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        data: Any = None
        try:
            data = parse_strict(_text(line, where), path, number, only=True)
            row = _row(data, where, images)
            if row.id in rows:
                raise UserError(f"{where}: a second row with the id {shown(row.id)}, as {rows[row.id].where}")
            rows[row.id] = row
        except UserError as error:
            faults.append(Fault(_id(data), str(error)))
    if not rows:
        raise UserError(
            f"{path}: no row that can be asked; expected a JSON object a line, with id and question or messages",
            *(fault.text for fault in faults[:_NAMED]),
            *([f"and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else []),
        )
    return list(rows.values()), faults


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None


def _id(data: Any) -> RowId | None:
    value = data.get("id") if isinstance(data, Mapping) else None
    return value if isinstance(value, str) or type(value) is int else None


def _row(data: Any, where: str, folder: ImageFolder) -> Row:
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a JSON object, got {shown(data)}")
    if unknown := [key for key in data if key not in _KEYS]:
        raise UserError(
            f"{where}: the key {shown(unknown[0])} is not understood; possible: {', '.join(_KEYS)}"
        )
    key = _id(data)
    if key is None or key == "":
        raise UserError(f"{where}: expected an id, a text or a whole number, got {shown(data.get('id'))}")
    paths = [folder.path(name, where) for name in _names(data, where)]
    return Row(key, where, tuple(_messages(data, len(paths), where)), tuple(paths))


def _names(data: Mapping[str, Any], where: str) -> list[Any]:
    """The names of a row's images; whether one is a name inside the folder is checked there."""
    if "image" in data and "images" in data:
        raise UserError(f"{where}: image and images name the images twice")
    names = data.get("images", [data["image"]] if "image" in data else [])
    if not isinstance(names, list):
        raise UserError(f"{where}: images: expected a list of files, got {shown(names)}")
    return names


def _messages(data: Mapping[str, Any], images: int, where: str) -> list[Message]:
    if ("question" in data) == ("messages" in data):
        raise UserError(f"{where}: expected either a question or messages")
    if "messages" not in data:
        if not isinstance(question := data["question"], str) or not (question or images):
            raise UserError(f"{where}: question: expected a text, got {shown(question)}")
        messages: list[Message] = [{"role": "user", "content": question}]
    else:
        messages = [_message(each, where) for each in _list(data["messages"], f"{where}: messages")]
    slots = sum(part == _SLOT for message in messages for part in message["content"])
    if images and not slots:
        first = next((m for m in messages if m["role"] == "user"), None)
        if first is None:
            raise UserError(f"{where}: the row has images, but no message of the user")
        text = first["content"]
        others = ([{"type": "text", "text": text}] if text else []) if isinstance(text, str) else text
        first["content"] = [_SLOT] * images + others
    elif images != slots:
        raise UserError(f'{where}: {images} images, but {slots} parts {{"type": "image"}} in the messages')
    return messages


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise UserError(f"{where}: expected messages of role and content, got {shown(message)}")
    if message["role"] not in ("system", "user", "assistant"):
        raise UserError(f"{where}: role {shown(message['role'])}; expected system, user or assistant")
    if not isinstance(content := message["content"], str):
        for part in _list(content, f"{where}: content"):
            _check_part(part, where)
    return dict(message)


def _check_part(part: Any, where: str) -> None:
    """Raise `UserError` for a part that is neither text, nor an image of the row, nor one in the row itself."""
    url = part.get("image_url") if isinstance(part, dict) else None
    inside = isinstance(url, dict) and str(url.get("url", "")).startswith("data:image/")
    text = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    if not (part == _SLOT or text or inside):
        raise UserError(
            f'{where}: the part {shown(part)}: expected text, or {{"type": "image"}} for each file of image or images'
        )


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{what}: expected a list that is not empty, got {shown(value)}")
    return value


def _filled(content: str | Sequence[Any], images: Iterator[Part]) -> str | list[Any]:
    return content if isinstance(content, str) else [next(images) if p == _SLOT else p for p in content]
