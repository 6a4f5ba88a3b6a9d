"""Interactive input: line editing and history, Ctrl-C, and names of image files."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.paths import expanded

HISTORY_LINES = 1000
log = logging.getLogger(__name__)


def history_file() -> Path:
    """`chat_history` in the user's folder for programs' state."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "vlm" / "chat_history"


@contextmanager
def _editing() -> Iterator[None]:
    """Line editing and history inside, where Python has readline; it lifts the terminal's limit of 4,095 characters."""
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
            log.warning("%s: the history of this conversation is not kept: %s", path, error.strerror or error)


def lines() -> Iterator[str]:
    """Each line that is typed or piped in, without surrounding white space; empty ones are left out.

    Ctrl-C drops the line that is being typed, Ctrl-D ends. There is no prompt where nobody types.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from filter(None, (line.strip() for line in sys.stdin))
        return
    with _editing():
        while True:
            try:
                line = input("> ").strip()
            except KeyboardInterrupt:
                print("\nCtrl-D or /quit ends")
                continue
            except EOFError:
                print()
                return
            if line:
                yield line


class Interrupt:
    """Inside, the first Ctrl-C only sets `received`, so that no computation is left half done; the second raises."""

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


def image_files(typed: str, *, quoted: bool) -> list[Path]:
    """The image files that were typed: one as it stands or, if `quoted`, several as a shell would split them.

    Terminals quote or escape a file that is dropped on them. Raises `UserError` for a URL and for what is no file.
    """
    names = [typed]
    if quoted and not Path(expanded(typed)).is_file():
        with suppress(ValueError):  # a single quotation mark is part of a name
            names = shlex.split(typed)
    return [_image_file(name) for name in names]


def _image_file(name: str) -> Path:
    if "://" in name or name.startswith("data:"):
        raise UserError(
            f"{name:.80}: a URL, and nothing is downloaded here; save the image and name its file"
        )
    path = Path(expanded(name))
    if not path.exists():
        raise UserError(f"{name}: no such image file")
    if not path.is_file():
        raise UserError(
            f"{name}: is {'a folder' if path.is_dir() else 'no regular file'}; name one image file"
        )
    return path
