"""Folders from which code is run, such as caches of compiled kernels: only this user may have write access."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

_LINKS = 40
"""Limit of symbolic links in a path, above which they count as a loop."""


def why_untrusted(folder: Path) -> str | None:
    """Why another user can write to a folder, and what to do; None if nobody else can.

    Checks every folder and link of the path, the folder itself, and its content; missing folders are safe. The owner
    must be this user or root, and others may not have write access, except to a sticky folder in the path. A private
    group, whose only member is this user, is allowed.
    """
    if not hasattr(os, "getuid"):  # Windows: a user's folders are private
        return None
    try:
        entries, complete = _path_entries(folder)
        for i, entry in enumerate(entries, 1):
            if text := _fault(*entry, is_parent=not complete or i < len(entries)):
                return text
        return _content_fault(entries[-1][0]) if complete else None
    except OSError as error:
        return error.strerror or str(error)


def _path_entries(folder: Path) -> tuple[list[tuple[Path, os.stat_result]], bool]:
    """Every entry of a folder's path, including links and their targets, and whether the whole path exists."""
    names, at, links = [*reversed(folder.absolute().parts)], Path(), 0
    entries: list[tuple[Path, os.stat_result]] = []
    while names:
        name = names.pop()
        at = at.parent if name == ".." else at / name
        try:
            facts = at.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return entries, False
        entries.append((at, facts))
        if stat.S_ISLNK(facts.st_mode):
            links += 1
            if links > _LINKS:
                return entries, False
            names += reversed(Path(os.readlink(at)).parts)
            at = at.parent
    return entries, True


def _content_fault(folder: Path) -> str | None:
    """The first fault in a folder's content; modes don't matter if others can't enter the folder."""
    closed = not stat.S_IMODE(folder.stat().st_mode) & 0o077
    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        facts = file.lstat()
        if stat.S_ISLNK(facts.st_mode):
            return f"{_named(file, facts)} is a link; remove it"
        if text := _fault(file, facts, is_parent=False, modes=not closed):
            return text
    return None


def _fault(path: Path, facts: os.stat_result, *, is_parent: bool, modes: bool = True) -> str | None:
    if facts.st_uid not in (os.getuid(), 0):
        return f"{_named(path, facts)} belongs to another user; name a folder of your own, or remove it"
    if not modes or not (stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode)):
        return None
    writers = facts.st_mode & 0o022
    if (is_parent and facts.st_mode & stat.S_ISVTX) or (writers == 0o020 and _own_group(facts.st_gid)):
        return None
    if writers:
        return f"{_named(path, facts)} can be written by other users; chmod go-w {_shown(path)}"
    return None


def _named(path: Path, facts: os.stat_result) -> str:
    return f"{_shown(path)} (owner {_user(facts.st_uid)}, mode {stat.filemode(facts.st_mode)})"


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@cache
def _own_group(number: int) -> bool:
    """Whether a group is the user's private group, without other members."""
    import grp

    try:
        group = grp.getgrgid(number)
    except KeyError:
        return False
    name = _user(os.getuid())
    return (
        os.getuid() != 0 and number == os.getgid() and group.gr_name == name and not {*group.gr_mem} - {name}
    )


def _shown(path: object) -> str:
    """A path with control characters escaped."""
    return repr(str(path))[1:-1]
