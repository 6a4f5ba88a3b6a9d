"""Interactive input: line editing and history, Ctrl-C, image paths."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from vlm_core.errors import UserError
from vlm_core.io.paths import expanded

HISTORY_LINES = 1000
log = logging.getLogger(__name__)


def history_file() -> Path:
    """Path of `chat_history` in the user's state folder ($XDG_STATE_HOME)."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "vlm" / "chat_history"


@contextmanager
def _editing() -> Iterator[None]:
    """Inside, input has line editing and history if Python has readline, and no limit of 4,095 characters per line."""
    try:
        import readline
    except ImportError:  # some builds of Python have none
        yield
        return
    path = history_file()
    readline.set_auto_history(True)
    with suppress(OSError):  # the first conversation, or one without a home folder
        readline.read_history_file(path)
    try:
        yield
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(path)
        except OSError as error:
            log.warning("%s: cannot save the history of this conversation: %s", path, error.strerror or error)


def lines() -> Iterator[str]:
    """Yield the lines of standard input, stripped, without empty ones.

    On a terminal there is a prompt; Ctrl-C discards the line being typed, Ctrl-D ends.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from filter(None, (line.strip() for line in sys.stdin))
        return
    with _editing():
        while True:
            try:
                line = input("> ").strip()
            except KeyboardInterrupt:
                print("\nCtrl-D or /quit exits")
                continue
            except EOFError:
                print()
                return
            if line:
                yield line


def converse(execute: Callable[[str], None]) -> None:
    """Execute each typed line until /quit or the end; a `UserError`, such as a wrong path, ends nothing."""
    for line in lines():
        try:
            if line == "/quit":
                break
            execute(line)
        except UserError as error:
            print(error, file=sys.stderr)


class Interrupt:
    """Inside, the first Ctrl-C only sets `received`, so that the current token is completed; the second raises."""

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True


def image_files(typed: str, *, quoted: bool, medium: Literal["image", "video"] = "image") -> list[Path]:
    """The image or video files in typed text: one path or, if `quoted`, several paths split as by a shell.

    Terminals quote or escape the path of a dropped file. Raises `UserError` for a URL and for a path that is no file.
    """
    names = [typed]
    if quoted and not Path(expanded(typed)).is_file():
        with suppress(ValueError):  # an unpaired quotation mark is part of a name
            names = shlex.split(typed)
    return [_image_file(name, medium) for name in names]


def _image_file(name: str, medium: str) -> Path:
    if "://" in name or name.startswith("data:"):
        raise UserError(f"{name:.80}: URLs are not supported; save the {medium} and give its path")
    if not name.strip():
        raise UserError(f"an empty path; name one {medium} file")
    path = Path(expanded(name))
    if not path.exists():
        raise UserError(f"{name}: no such {medium} file")
    if not path.is_file():
        raise UserError(
            f"{name}: is {'a folder' if path.is_dir() else 'no regular file'}; name one {medium} file"
        )
    return path
