"""Folders whose files are run, such as caches of compiled kernels: only this user may be able to write there."""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

_LINKS = 40
"""Links on the way to one folder, after which the way counts as a circle."""


def why_untrusted(folder: Path) -> str | None:
    """What lets another user put files into a folder, and what to do about it; None if nothing does.

    Looked at are every folder and link on the way, the folder itself, and all that it holds; what is not there yet can
    be made safely. The owner must be this user or root, and nobody else may write, save in a sticky folder on the way;
    a user's private group, which has no other member, is nobody else.
    """
    if not hasattr(os, "getuid"):  # Windows: a user's folders are the user's
        return None
    try:
        way, whole = _way(folder)
        for i, entry in enumerate(way, 1):
            if text := _fault(*entry, on_the_way=not whole or i < len(way)):
                return text
        return _inside(way[-1][0]) if whole else None
    except OSError as error:
        return error.strerror or str(error)


def _way(folder: Path) -> tuple[list[tuple[Path, os.stat_result]], bool]:
    """Every entry on the way to a folder, links and what they lead to, and whether all of the way is there."""
    rest, at, links = [*reversed(folder.absolute().parts)], Path(), 0
    way: list[tuple[Path, os.stat_result]] = []
    while rest:
        name = rest.pop()
        at = at.parent if name == ".." else at / name
        try:
            facts = at.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return way, False
        way.append((at, facts))
        if stat.S_ISLNK(facts.st_mode):
            links += 1
            if links > _LINKS:
                return way, False
            rest += reversed(Path(os.readlink(at)).parts)
            at = at.parent
    return way, True


def _inside(folder: Path) -> str | None:
    """The first fault among all that a folder holds; what nobody else can enter, nobody else can write to."""
    closed = not stat.S_IMODE(folder.stat().st_mode) & 0o077
    for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
        facts = file.lstat()
        if stat.S_ISLNK(facts.st_mode):
            return f"{_named(file, facts)} is a link; remove it"
        if text := _fault(file, facts, on_the_way=False, modes=not closed):
            return text
    return None


def _fault(path: Path, facts: os.stat_result, *, on_the_way: bool, modes: bool = True) -> str | None:
    if facts.st_uid not in (os.getuid(), 0):
        return f"{_named(path, facts)} belongs to another user; name a folder of your own, or remove it"
    if not modes or not (stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode)):
        return None
    writers = facts.st_mode & 0o022
    if (on_the_way and facts.st_mode & stat.S_ISVTX) or (writers == 0o020 and _own_group(facts.st_gid)):
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
    """Whether a group is the one that many systems give to each user, and that nobody else is in."""
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
    """A path without control characters."""
    return repr(str(path))[1:-1]
