"""Where the images are that a file names: inside one folder, links followed, or refused."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from vlm_core.errors import BadSample

MAX_PATH = 4096
"""Characters of an image's name."""


def _is_plain(name: str) -> bool:
    """Whether an image's name goes nowhere up, and is neither a URL nor a command."""
    return not (name.startswith("pipe:") or "://" in name or ".." in name.split("/") or "\0" in name)


def _path_of(name: str) -> str:
    """A `file://` URL as the path that it names; any other name as it is."""
    if not name.lower().startswith("file://"):
        return name
    host, slash, path = name[len("file://") :].partition("/")
    return unquote(slash + path) if host in ("", "localhost") else name


def _hint(name: Any) -> str:
    """What is special about a name that can't be used."""
    if not isinstance(name, str):
        return ""
    if re.match(r"(https?|s3|gs|hf|ftp)://", name, re.IGNORECASE):
        return ": training downloads no images; copy them there"
    if re.match(r"[A-Za-z]:[\\\\/]", name) or "\\" in name:
        return ": it is a Windows path; names are relative, with / between folders"
    return ""


class _Found(NamedTuple):
    """A path that is there: whether it is a link, and whether a regular file is there."""

    path: str
    linked: bool
    regular: bool


def _look(path: str) -> _Found | None:
    try:
        facts = os.lstat(path)
        linked = stat.S_ISLNK(facts.st_mode)
        return _Found(path, linked, stat.S_ISREG((os.stat(path) if linked else facts).st_mode))
    except (OSError, ValueError):
        return None


@dataclass
class ImageFolder:
    """The folder in which a dataset's images are. Names are looked at before any file is touched."""

    root: str
    symlinks: bool = False
    option: str = "symlinks: true"
    """How the user allows links, for messages."""
    _inside: dict[str, bool] = field(default_factory=dict, repr=False)

    def locate(self, name: Any, where: str) -> str:
        """The path of an image; raises `BadSample` if the name or a link in it leaves the folder.

        An absolute name or `file://` URL must lie in the folder. A relative one may begin with the folder's own name.
        `..`, NUL and other URLs are refused, and what is missing or is no regular file.
        """
        path, found = self._look(name, where)
        if found is None:
            text = f"{where}: image is missing: {path}{_hint(name)}; set images: to the folder of the images"
            raise BadSample("missing", text)
        if not found.regular:
            raise BadSample("not-a-file", f"{where}: image {name!r:.80} is no regular file")
        return found.path

    def path(self, name: Any, where: str) -> Path:
        """As `locate`, for an image that need not be there; opening tells what is wrong with a file."""
        path, found = self._look(name, where)
        return Path(found.path if found else path)

    def _look(self, name: Any, where: str) -> tuple[str, _Found | None]:
        """The path that a name stands for, and what is there; raises `BadSample` for what leaves the folder."""
        path = self._path(name, where)
        found = _look(path) or next(filter(None, map(_look, self._without_root(name))), None)
        if found is not None and not self.symlinks:
            stays = (
                self._stays(found.path) if found.linked else self._folder_stays(os.path.dirname(found.path))
            )
            if not stays:
                text = (
                    f"image {name!r:.80} leaves {self.root} by a symbolic link; allow it with {self.option}"
                )
                raise BadSample("path", f"{where}: {text}")
        return path, found

    def _path(self, name: Any, where: str) -> str:
        """The path that a name stands for, inside the root as far as names tell."""
        if isinstance(name, str) and len(name) > MAX_PATH:
            text = f"an image's name of {len(name)} characters: {name!r:.40}; at most {MAX_PATH} are read"
            raise BadSample("path", f"{where}: {text}")
        plain = _path_of(name) if isinstance(name, str) and name else None
        inside = self._relative(plain) if plain and _is_plain(plain) else None
        if inside is None:
            text = f"image {name!r:.80} must be a name inside {self.root}{_hint(name)}"
            raise BadSample("path", f"{where}: {text}")
        return os.path.join(self.root, inside)

    def _relative(self, name: str) -> str | None:
        """An absolute name as one inside the root, None if it lies elsewhere; a relative one as it is."""
        if not name.startswith("/"):
            return name
        for root in (os.path.abspath(self.root), os.path.realpath(self.root)):
            if os.path.commonpath([root, os.path.normpath(name)]) == root:
                return os.path.relpath(name, root)
        return None

    def _without_root(self, name: str) -> Iterator[str]:
        """The paths of a name that begins with the last folders of the root: `images/a.png` in `data/images`."""
        root, parts = os.path.abspath(self.root).split("/"), name.split("/")
        for count in range(1, min(len(root), len(parts))):
            if parts[:count] == root[-count:]:
                yield os.path.join(self.root, *parts[count:])

    def _stays(self, path: str) -> bool:
        """Whether a path, links followed, is inside the root."""
        root = os.path.realpath(self.root)
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def _folder_stays(self, path: str) -> bool:
        """As `_stays`, for folders: they repeat, so answers are kept."""
        if path not in self._inside:
            self._inside[path] = self._stays(path)
        return self._inside[path]
