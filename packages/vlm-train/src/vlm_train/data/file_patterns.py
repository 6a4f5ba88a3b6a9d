"""Expands `{000..002}`, `{a,b}`, `*`, `**` and folders to files, as a shell and `glob` do.

Patterns come from a spec, so the number of names and of files visited is limited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic

from vlm_core.errors import UserError, shown

MAX_NAMES, MAX_ENTRIES = 100_000, 2_000_000
"""The most names that braces may expand to, and files and folders that a search may visit."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


def braces(pattern: str) -> list[str]:
    """The expansion of `a-{000..002}.tar` and `{train,more}.tar`; `{}` in any other form is kept."""
    names, end = [""], 0
    for match in _BRACES.finditer(pattern):
        choices = _expansion(match[1], pattern) or [match[0]]
        if len(names) * len(choices) > MAX_NAMES:
            raise _too_many(pattern)
        before = pattern[end : match.start()]
        names = [name + before + choice for name in names for choice in choices]
        end = match.end()
    return [name + pattern[end:] for name in names]


def _expansion(inside: str, pattern: str) -> list[str]:
    """The choices of one pair of braces; empty if it is not a pattern."""
    limits = _RANGE.fullmatch(inside)
    if limits is None:
        return inside.split(",") if "," in inside else []
    first, last = int(limits[1]), int(limits[2])
    if last - first >= MAX_NAMES:
        raise _too_many(pattern)
    return [f"{i:0{len(limits[1])}d}" for i in range(first, last + 1)]


def _too_many(pattern: str) -> UserError:
    return UserError(f"{shown(pattern, 200)} expands to more than {MAX_NAMES} names")


def local_files(name: str, suffix: str) -> list[str]:
    """A file, the files below a folder that end in `suffix`, or those that match a pattern; sorted."""
    search = _Search(name)
    if os.path.isdir(name):
        return sorted(path for path in search.walk(name) if path.endswith(suffix) and os.path.isfile(path))
    if has_magic(name):
        root = "/" if name.startswith("/") else ""
        return sorted(
            {path for path in search.matches(root, name.strip("/").split("/")) if os.path.isfile(path)}
        )
    return [name] if os.path.isfile(name) else []


class _Search:
    """One search; raises `UserError` after `MAX_ENTRIES` files and folders."""

    def __init__(self, name: str) -> None:
        self.name, self.visited = name, 0

    def count(self, entries: int) -> None:
        self.visited += entries
        if self.visited > MAX_ENTRIES:
            raise UserError(
                f"{shown(self.name, 200)}: more than {MAX_ENTRIES} files and folders; name a smaller folder"
            )

    def walk(self, folder: str) -> Iterator[str]:
        for parent, folders, files in os.walk(folder):
            self.count(len(folders) + len(files))
            yield from (os.path.join(parent, file) for file in files)

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as scan:
                entries = list(scan)
        except OSError:  # as `glob`: an unreadable folder matches nothing
            return []
        self.count(len(entries))
        return entries

    def matches(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        """The paths below `folder` that match `parts`, as in `glob`: `*` matches no hidden name, `**` any depth."""
        part, remaining = parts[0], parts[1:]
        if part != "**" and not has_magic(part):
            path = os.path.join(folder, part)
            if os.path.lexists(path):
                yield from self.matches(path, remaining) if remaining else [path]
            return
        if part == "**" and remaining:
            yield from self.matches(folder, remaining)
        for entry in self.entries(folder):
            path = os.path.join(folder, entry.name)
            if entry.name.startswith(".") and not part.startswith("."):
                continue
            if part == "**":
                yield from self.matches(path, parts) if _is_folder(entry) else () if remaining else [path]
            elif fnmatchcase(entry.name, part):
                yield from self.matches(path, remaining) if remaining else [path]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
