"""Notices programs that are started, connections, and files that are written outside of one folder."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

_STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pty.spawn",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "shutil.rmtree",
    "os.mkdir",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """A context in which Python's audit events are looked at; `violations` are those of the last one."""

    def __init__(self, folder: Path) -> None:
        self.allowed = (str(folder), tempfile.gettempdir(), "/dev/null")
        self.violations: list[str] = []
        self.active = False
        self._bytecode = sys.dont_write_bytecode
        sys.addaudithook(self._event)

    def __enter__(self) -> Self:
        self.violations, self.active = [], True
        self._bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # of modules imported now
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        sys.dont_write_bytecode = self._bytecode

    def _event(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _STARTS:
            self.violations.append(f"{event} {args[:1]!r:.100}")
        elif (event == "open" and isinstance(args[2], int) and args[2] & _WRITING) or event in _CHANGES:
            self._written(event, args[0])

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith(self.allowed):
            self.violations.append(f"{event} of {place:.200}")
