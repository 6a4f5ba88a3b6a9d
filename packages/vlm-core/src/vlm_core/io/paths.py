"""Paths in specs and on command lines: `~` is expanded everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, Field
from pydantic.fields import FieldInfo

from vlm_core.errors import UserError, shown

MAX_PATH, MAX_NAME = 4095, 255
"""Limits in bytes of a path and of a file name."""
_SCHEMES = ("local-dir:",)
"""Prefixes of a path, as timm and open_clip write them."""


@dataclass(frozen=True)
class NamesFiles:
    """Marks a config field that names a file or folder: a resumed run compares its content, not its name."""


def expanded(text: str) -> str:
    """`text` with `~` or `~user` at its start replaced by the home folder.

    Raises `UserError` if the home folder is unknown, and for text that can't be a path.
    """
    _refuse_no_path(text)
    scheme = next((scheme for scheme in _SCHEMES if text.startswith(scheme)), "")
    path = text.removeprefix(scheme)
    resolved = os.path.expanduser(path)
    if path.startswith("~") and resolved == path:
        user = path.split("/")[0]
        raise UserError(
            f"{text}: no home folder is known for {user}; write ./{path} for a name that begins so"
        )
    return scheme + resolved


def _refuse_no_path(text: str) -> None:
    """Raise `UserError` for text that no system call accepts as a path; a URL may be longer."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        raise UserError(f"{shown(text)}: no path: it holds half a character (a surrogate)") from None
    if b"\0" in data:
        raise UserError(f"{shown(text)}: no path: it holds the character U+0000")
    longest = 0 if "://" in text else max(map(len, data.split(b"/")))
    if len(data) > MAX_PATH or longest > MAX_NAME:
        raise UserError(
            f"{shown(text)}: no path: {len(data)} bytes; a path has at most {MAX_PATH}, a name in it {MAX_NAME}"
        )


def _expanded_path(path: Path) -> Path:
    return Path(expanded(str(path)))


LocalPath = Annotated[str, AfterValidator(expanded), NamesFiles()]
"""A path in a config, or what may be one (a hub id, a tag, a URL): `~` is expanded when the spec is read."""
LocalFile = Annotated[Path, Field(strict=False), AfterValidator(_expanded_path), NamesFiles()]
"""The same as a `pathlib.Path`."""


def names_files(field: FieldInfo) -> bool:
    """Whether a config field is a `LocalPath` or `LocalFile`, or contains one."""
    return any(map(_is_mark, field.metadata)) or _holds_mark(field.annotation)


def _is_mark(item: Any) -> bool:
    return isinstance(item, NamesFiles)


def _holds_mark(annotation: Any) -> bool:
    metadata = getattr(annotation, "__metadata__", ())
    return any(map(_is_mark, metadata)) or any(map(_holds_mark, get_args(annotation)))


def file_names(config: BaseModel, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(keys, value) of every set field that `names_files`, in a config and its nested configs."""
    for name, field in type(config).model_fields.items():
        value, here = getattr(config, name), (*at, name)
        inner = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        models = [(place, item) for place, item in inner if isinstance(item, BaseModel)]
        for place, item in models:
            yield from file_names(item, here if place is None else (*here, str(place)))
        if not models and value is not None and names_files(field):
            yield here, value


def local(value: Any) -> Path | None:
    """The existing file or folder that a value names, without its scheme; None if there is none."""
    text = str(value)
    for scheme in _SCHEMES:
        text = text.removeprefix(scheme)
    path = Path(text)
    return path if text and (path.is_file() or path.is_dir()) else None
