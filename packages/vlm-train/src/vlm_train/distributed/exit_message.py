"""The message and exit code of a group of processes: the first process that ends prints the message for all.

Imported before all else, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

RESUMABLE = 75
"""Exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""
_FINAL = (2, RESUMABLE)
"""Exit codes that a restart by the launcher can't mend: a user's error, or a request to stop."""
_CODE_FILE = "exit-code"


def shared(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that the processes of one node and attempt share: torchrun's folder of error files."""
    file = environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parents[1] if file else None


def settled() -> int | None:
    """The final exit code of an earlier attempt; the processes of this attempt end with it and print nothing."""
    if (folder := shared()) is None:
        return None
    codes = [claimed(earlier) for earlier in folder.parent.glob("attempt_*") if earlier != folder]
    return next((code for code in codes if code in _FINAL), None)


def claim(code: int) -> bool:
    """Record the exit code; -> whether this process is the first of its node to end with a message."""
    if (folder := shared()) is None:
        return True
    if settled() is not None:
        return False
    aside = folder / f".{_CODE_FILE}-{os.getpid()}"
    try:
        aside.write_text(str(code))
        os.link(aside, folder / _CODE_FILE)  # the first one wins, and nobody reads half of it
    except FileExistsError:
        return False
    except OSError:  # a full disk: better said twice than never
        return True
    finally:
        with suppress(OSError):
            aside.unlink()
    return True


def claimed(folder: Path | None = None) -> int | None:
    """The exit code that a process of this node and attempt has recorded."""
    if (folder := folder or shared()) is None:
        return None
    with suppress(OSError, ValueError):
        return int((folder / _CODE_FILE).read_text())
    return None


def say(text: str, code: int) -> int:
    """Print the message of a process that ends, unless another was first; -> the exit code of the first."""
    if claim(code):
        write(text)
        return code
    return settled() or claimed() or code


def write(text: str) -> None:
    """To stderr, also from within a signal handler."""
    try:
        sys.stderr.write(f"vlm-train: {text}\n")
        sys.stderr.flush()
    except RuntimeError:  # the handler interrupted just such a write
        os.write(2, f"vlm-train: {text}\n".encode(errors="backslashreplace"))
