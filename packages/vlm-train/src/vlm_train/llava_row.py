"""One row of LLaVA's JSON: its schema, and where its images are. Every fault names row and what was expected."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Any

from vlm_core.errors import BadSample

PLACEHOLDER = "<image>"


def human_first(row: Any) -> tuple[Any, bool]:
    """A conversation that gpt opens loses that turn, as in LLaVA's own reader; True if it did."""
    turns = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(turns, list) or len(turns) < 3 or not isinstance(turns[0], dict):
        return row, False
    opened = turns[0].get("from") == "gpt"
    return ({**row, "conversations": turns[1:]} if opened else row), opened


def checked(row: Any, where: str) -> dict[str, Any]:
    """The row with a list of image names; raises `BadSample` for anything that is not LLaVA's schema."""
    if not isinstance(row, dict):
        raise BadSample("schema", f"{where}: expected a mapping, got {row!r:.60}")
    images, category = row.get("image"), row.get("category")
    turns = _checked_turns(row.get("conversations"), where)
    names = [] if images is None else images if isinstance(images, list) else [images]
    slots = sum(turn["value"].count(PLACEHOLDER) for turn in turns[::2])
    if slots != len(names):
        text = f"{where}: {slots} {PLACEHOLDER} in the human turns, but {len(names)} images"
        raise BadSample("placeholders", text)
    if not isinstance(category, str | None):
        raise BadSample("schema", f"{where}: category must be text, got {category!r:.60}")
    name = str(row.get("id", where))
    for text in (name, category or "", *(turn["value"] for turn in turns)):
        _check_text(text, where)
    return {"id": name, "image": names, "conversations": turns, "category": category}


def _checked_turns(turns: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(turns, list) or not turns:
        raise BadSample("schema", f"{where}: conversations must be a non-empty list, got {turns!r:.60}")
    for i, turn in enumerate(turns):
        speaker = ("human", "gpt")[i % 2]
        if (
            not isinstance(turn, dict)
            or turn.get("from") != speaker
            or not isinstance(turn.get("value"), str)
        ):
            expected = f"expected {{from: {speaker}, value: text}}, got {turn!r:.80}"
            raise BadSample("schema", f"{where}, turn {i}: {expected}")
    if len(turns) % 2:
        raise BadSample("schema", f"{where}: the last turn must be gpt's answer")
    return turns


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadSample("schema", f"{where}: half of a surrogate pair in {text!r:.60} is no text") from None


def _is_plain(name: Any) -> bool:
    """Whether an image's name is relative, goes nowhere up, and is neither a URL nor a command."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return not (name.startswith(("/", "pipe:")) or "://" in name or ".." in name.split("/"))


@dataclass
class ImageFolder:
    """The folder in which a dataset's images are. Names are looked at before any file is touched."""

    root: str
    symlinks: bool = False
    _inside: dict[str, bool] = field(default_factory=dict, repr=False)

    def locate(self, name: Any, where: str) -> str:
        """The path of an image; raises `BadSample` if the name or a link in it leaves the folder.

        Absolute names, `..`, NUL and URLs are refused, and what is missing or is no regular file.
        """
        if not _is_plain(name):
            raise BadSample("path", f"{where}: image {name!r:.80} must be a name inside {self.root}")
        path = os.path.join(self.root, name)
        try:
            found = os.lstat(path)
            linked = stat.S_ISLNK(found.st_mode)
            regular = stat.S_ISREG((os.stat(path) if linked else found).st_mode)
        except (OSError, ValueError):
            text = f"{where}: image is missing: {path}; set images: to the folder of the images"
            raise BadSample("missing", text) from None
        stays = self._stays(path) if linked else self._folder_stays(os.path.dirname(path))
        if not (self.symlinks or stays):
            text = f"image {name!r:.80} leaves {self.root} by a symbolic link; allow it with symlinks: true"
            raise BadSample("path", f"{where}: {text}")
        if not regular:
            raise BadSample("not-a-file", f"{where}: image {name!r:.80} is no regular file")
        return path

    def _stays(self, path: str) -> bool:
        """Whether a path, links followed, is inside the root."""
        root = os.path.realpath(self.root)
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def _folder_stays(self, path: str) -> bool:
        """As `_stays`, for folders: they repeat, so answers are kept."""
        if path not in self._inside:
            self._inside[path] = self._stays(path)
        return self._inside[path]
