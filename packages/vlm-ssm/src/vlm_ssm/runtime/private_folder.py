"""Permission check of folders whose files are executed, such as kernel caches: only this user may write there."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

_LINKS = 40
"""Symbolic links in one path, beyond which it counts as a cycle."""


def why_untrusted(folder: Path) -> str | None:
    """How another user could write into a folder, and what to do about it; None if nobody can.

    Checked are the parents and symbolic links of its path, the folder, and its content; a missing folder can be created
    safely. The owner must be this user or root, and nobody else may have write permission, except in a parent with the
    sticky bit. A private group whose only member is this user is allowed to write.
    """
    if not hasattr(os, "getuid"):  # Windows: a user's folders are private
        return None
    try:
        entries, exists = _path_entries(folder)
        for i, entry in enumerate(entries, 1):
            if text := _fault(*entry, is_parent=not exists or i < len(entries)):
                return text
        return _inside(entries[-1][0]) if exists else None
    except OSError as error:
        return error.strerror or str(error)


def _path_entries(folder: Path) -> tuple[list[tuple[Path, os.stat_result]], bool]:
    """Every folder and link in a path, with links followed, and whether the whole path exists."""
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


def _inside(folder: Path) -> str | None:
    """The first fault in a folder's content. Modes don't matter in a folder that nobody else can enter."""
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
    """Whether a group is this user's private group: named after the user, without other members."""
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
