"""What any row keeps to: the mark for an image, text that is text, and where images are that it names."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Any

from vlm_core.errors import BadSample

PLACEHOLDER = "<image>"


def check_text(text: str, where: str) -> None:
    """Raise `BadSample` for what JSON can spell but no encoding can hold."""
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
