"""What ends several processes is told once: by the first that leaves, whose exit code is that of all.

Imported before all else, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

_TOLD = "told"


def shared() -> Path | None:
    """A folder that the processes of this node and attempt have in common: torchrun's for their errors."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parents[1] if file else None


def claim(code: int) -> bool:
    """Whether this process is the first of its node to leave with something to say."""
    if (folder := shared()) is None:
        return True
    aside = folder / f".{_TOLD}-{os.getpid()}"
    aside.write_text(str(code))
    try:
        os.link(aside, folder / _TOLD)  # the first one wins, and nobody reads half of it
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def claimed(folder: Path | None = None) -> int | None:
    """The exit code that another process of this node and attempt has left with."""
    if (folder := folder or shared()) is None:
        return None
    with suppress(OSError):
        return int((folder / _TOLD).read_text())
    return None


def say(text: str, code: int) -> int:
    """Tell what a process leaves with, unless another has; -> the exit code of that which was first."""
    if claim(code):
        write(text)
        return code
    return claimed() or code


def write(text: str) -> None:
    """To stderr, also from within a signal handler."""
    try:
        sys.stderr.write(f"vlm-train: {text}\n")
        sys.stderr.flush()
    except RuntimeError:  # the handler interrupted just such a write
        os.write(2, f"vlm-train: {text}\n".encode(errors="backslashreplace"))
