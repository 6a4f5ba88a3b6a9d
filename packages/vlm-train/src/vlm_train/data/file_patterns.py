"""Names of many files: `{000..002}`, `{a,b}`, `*`, `**` and folders, as the files that they stand for.

A pattern is a text of a spec: how many names it makes, and how many files are looked at, has a limit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic

from vlm_core.errors import UserError, shown

MAX_NAMES, MAX_ENTRIES = 100_000, 2_000_000
"""Names that braces may stand for, and files and folders that a search may meet."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


def braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{train,more}.tar` as the names that they stand for; `{}` in any other form stays."""
    names, end = [""], 0
    for found in _BRACES.finditer(pattern):
        pieces = _pieces(found[1], pattern) or [found[0]]
        if len(names) * len(pieces) > MAX_NAMES:
            raise _too_many(pattern)
        before = pattern[end : found.start()]
        names = [name + before + piece for name in names for piece in pieces]
        end = found.end()
    return [name + pattern[end:] for name in names]


def _pieces(inside: str, pattern: str) -> list[str]:
    """What one pair of braces stands for; nothing where it is no pattern."""
    limits = _RANGE.fullmatch(inside)
    if limits is None:
        return inside.split(",") if "," in inside else []
    first, last = int(limits[1]), int(limits[2])
    if last - first >= MAX_NAMES:
        raise _too_many(pattern)
    return [f"{i:0{len(limits[1])}d}" for i in range(first, last + 1)]


def _too_many(pattern: str) -> UserError:
    return UserError(f"{shown(pattern, 200)} stands for more than {MAX_NAMES} names")


def local_files(name: str, suffix: str) -> list[str]:
    """A file, the files of a folder at any depth that end in `suffix`, or those that a pattern fits; sorted."""
    search = _Search(name)
    if os.path.isdir(name):
        return sorted(path for path in search.walk(name) if path.endswith(suffix) and os.path.isfile(path))
    if has_magic(name):
        root = "/" if name.startswith("/") else ""
        return sorted(
            {path for path in search.fits(root, name.strip("/").split("/")) if os.path.isfile(path)}
        )
    return [name] if os.path.isfile(name) else []


class _Search:
    """One search, which counts what it meets."""

    def __init__(self, name: str) -> None:
        self.name, self.met = name, 0

    def count(self, entries: int) -> None:
        self.met += entries
        if self.met > MAX_ENTRIES:
            raise UserError(
                f"{shown(self.name, 200)}: met more than {MAX_ENTRIES} files and folders; name a smaller folder"
            )

    def walk(self, folder: str) -> Iterator[str]:
        for place, folders, files in os.walk(folder):
            self.count(len(folders) + len(files))
            yield from (os.path.join(place, file) for file in files)

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as found:
                entries = list(found)
        except OSError:  # as `glob`: what can't be read fits nothing
            return []
        self.count(len(entries))
        return entries

    def fits(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        """The paths below `folder` that `parts` fit, as `glob` does: `*` fits no hidden name, `**` any depth."""
        part, rest = parts[0], parts[1:]
        if part != "**" and not has_magic(part):
            path = os.path.join(folder, part)
            if os.path.lexists(path):
                yield from self.fits(path, rest) if rest else [path]
            return
        if part == "**" and rest:
            yield from self.fits(folder, rest)
        for entry in self.entries(folder):
            path = os.path.join(folder, entry.name)
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            if part == "**":
                yield from self.fits(path, parts) if _is_folder(entry) else () if rest else [path]
            elif fnmatchcase(entry.name, part):
                yield from self.fits(path, rest) if rest else [path]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
