"""Paths of images that a data file names: inside one folder, with symbolic links followed or refused."""

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
"""Limit in characters of an image's name."""
EXTENSIONS = frozenset(
    f".{name}"
    for name in ["avif", "bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"]
)
"""Extensions of image files, in lower case."""


def _is_plain(name: str) -> bool:
    """Whether a name has no `..`, and is neither a URL nor a command."""
    return not (name.startswith("pipe:") or "://" in name or ".." in name.split("/") or "\0" in name)


def _path_of(name: str) -> str:
    """The path of a `file://` URL; other names unchanged."""
    if not name.lower().startswith("file://"):
        return name
    host, slash, path = name[len("file://") :].partition("/")
    return unquote(slash + path) if host in ("", "localhost") else name


def _hint(name: Any) -> str:
    """A hint for names that can't be used: URLs and Windows paths."""
    if not isinstance(name, str):
        return ""
    if re.match(r"(https?|s3|gs|hf|ftp)://", name, re.IGNORECASE):
        return ": training downloads no images; copy them there"
    if re.match(r"[A-Za-z]:[\\\\/]", name) or "\\" in name:
        return ": it is a Windows path; names are relative, with / between folders"
    return ""


class _Entry(NamedTuple):
    """An existing path: whether it is a symbolic link, and whether it leads to a regular file."""

    path: str
    linked: bool
    regular: bool


def _entry(path: str) -> _Entry | None:
    try:
        facts = os.lstat(path)
        linked = stat.S_ISLNK(facts.st_mode)
        return _Entry(path, linked, stat.S_ISREG((os.stat(path) if linked else facts).st_mode))
    except (OSError, ValueError):
        return None


def _names_by_stem(folder: str) -> dict[str, list[str]]:
    """Names of the image files in a folder, by the name without extension; none if it can't be listed."""
    names: dict[str, list[str]] = {}
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return {}
    for name in entries:
        stem, extension = os.path.splitext(name)
        if extension.lower() in EXTENSIONS:
            names.setdefault(stem, []).append(name)
    return names


@dataclass
class ImageFolder:
    """The folder of a dataset's images. Names are checked before any file is accessed."""

    root: str
    symlinks: bool = False
    option: str = "symlinks: true"
    """The option that allows symbolic links, for messages."""
    any_extension: bool = False
    """Whether a missing image may be the one image file with its name and another extension."""
    substitutes: dict[str, str] = field(default_factory=dict, repr=False)
    """With `any_extension`: paths of files with another extension, by the path that the data name."""
    _inside: dict[str, bool] = field(default_factory=dict, repr=False)
    _paths: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)
    _stems: dict[str, dict[str, list[str]]] = field(default_factory=dict, repr=False)
    """Names of image files by folder and name without extension; listed when an image is missing."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_paths": {},
            "_stems": {},
        }  # a process lists again what it needs: listings are large

    def locate(self, name: Any, where: str) -> str:
        """The path of an image; raises `BadSample` if the name or a link in it leads out of the folder.

        An absolute name or `file://` URL must be inside the folder. A relative name may begin with the folder's own
        name. Names with `..` or NUL, other URLs, missing files and non-regular files are `BadSample`.
        """
        path, entry = self._find(name, where)
        if entry is None:
            text = f"{where}: image is missing: {path}{_hint(name)}; set images: to the folder of the images"
            raise BadSample("missing", text)
        if not entry.regular:
            raise BadSample("not-a-file", f"{where}: image {name!r:.80} is no regular file")
        return entry.path

    def path(self, name: Any, where: str) -> Path:
        """As `locate`, for an image that may be missing; errors of the file are raised when it is opened."""
        if isinstance(name, str) and name in self._paths:  # benchmarks ask many questions about an image
            return self._paths[name]
        path, entry = self._find(name, where)
        return self._paths.setdefault(name, Path(entry.path if entry else path))

    def _find(self, name: Any, where: str) -> tuple[str, _Entry | None]:
        """The path of a name and its entry; raises `BadSample` if it leads out of the folder."""
        path = self._path(name, where)
        entry = _entry(path) or next(filter(None, map(_entry, self._without_root(name))), None)
        if entry is None and self.any_extension:
            entry = self._substitute(path)
        if entry is not None and not self.symlinks:
            folder = os.path.dirname(entry.path)
            inside = self._is_inside(entry.path) if entry.linked else self._is_folder_inside(folder)
            if not inside:
                text = (
                    f"image {name!r:.80} leaves {self.root} by a symbolic link; allow it with {self.option}"
                )
                raise BadSample("path", f"{where}: {text}")
        return path, entry

    def other_extensions(self, path: str) -> list[str]:
        """Image files with the name of a missing one and another extension."""
        folder, name = os.path.split(path)
        if folder not in self._stems:
            self._stems[folder] = _names_by_stem(folder)
        return self._stems[folder].get(os.path.splitext(name)[0], [])

    def _substitute(self, path: str) -> _Entry | None:
        """The entry of the only image file that differs from a missing one in its extension alone."""
        if path not in self.substitutes:
            names = self.other_extensions(path)
            if len(names) != 1:
                return None
            self.substitutes[path] = os.path.join(os.path.dirname(path), names[0])
        return _entry(self.substitutes[path])

    def _path(self, name: Any, where: str) -> str:
        """The path of a name, inside the root before links are followed."""
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
        """An absolute name relative to the root, None if it is outside; a relative name unchanged."""
        if not name.startswith("/"):
            return name
        for root in (os.path.abspath(self.root), os.path.realpath(self.root)):
            if os.path.commonpath([root, os.path.normpath(name)]) == root:
                return os.path.relpath(name, root)
        return None

    def _without_root(self, name: str) -> Iterator[str]:
        """Paths of a name that begins with the last folders of the root, such as `images/a.png` in `data/images`."""
        root, parts = os.path.abspath(self.root).split("/"), name.split("/")
        for count in range(1, min(len(root), len(parts))):
            if parts[:count] == root[-count:]:
                yield os.path.join(self.root, *parts[count:])

    def _is_inside(self, path: str) -> bool:
        """Whether a path is inside the root after following links."""
        root = os.path.realpath(self.root)
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    def _is_folder_inside(self, path: str) -> bool:
        """`_is_inside` of a folder, cached: many images are in one folder."""
        if path not in self._inside:
            self._inside[path] = self._is_inside(path)
        return self._inside[path]
