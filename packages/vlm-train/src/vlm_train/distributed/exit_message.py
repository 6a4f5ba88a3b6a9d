"""The message and exit code of a run: of several processes, the first that ends reports them for all.

torchrun exits with 1 whatever its processes exit with, and prints one traceback per process. Imported before the signal
handlers are installed, so it imports nothing that takes time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

RESUMABLE = 75
"""Exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""
_FINAL = (2, RESUMABLE)
"""Exit codes after which a restart is useless: a user's error, or a request to stop."""
_CODE_FILE = "exit-code"
log = logging.getLogger(__name__)


def attempt_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that the processes of one node and attempt share: torchrun's folder of error files."""
    file = environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parents[1] if file else None


def final_code() -> int | None:
    """The final exit code of an earlier attempt; the processes of this attempt end with it and report nothing."""
    if (folder := attempt_folder()) is None:
        return None
    codes = [recorded_code(earlier) for earlier in folder.parent.glob("attempt_*") if earlier != folder]
    return next((code for code in codes if code in _FINAL), None)


def record_code(code: int) -> bool:
    """Record the exit code; -> whether this process is the first of its node to end with a message."""
    if (folder := attempt_folder()) is None:
        return True
    if final_code() is not None:
        return False
    temporary = folder / f".{_CODE_FILE}-{os.getpid()}"
    try:
        temporary.write_text(str(code))
        os.link(temporary, folder / _CODE_FILE)  # atomic, and fails if another process was first
    except FileExistsError:
        return False
    except OSError:  # a full disk: two messages are better than none
        return True
    finally:
        with suppress(OSError):
            temporary.unlink()
    return True


def recorded_code(folder: Path | None = None) -> int | None:
    """The exit code that a process of this node and attempt has recorded."""
    if (folder := folder or attempt_folder()) is None:
        return None
    with suppress(OSError, ValueError):
        return int((folder / _CODE_FILE).read_text())
    return None


def report(text: str, code: int) -> int:
    """Log the message of a process that ends, unless another was first; -> the exit code of the first."""
    if record_code(code):
        log_error(text)
        return code
    return final_code() or recorded_code() or code


def log_error(text: str) -> None:
    """Log each line; the name of the command comes first, as it does for errors of the command line."""
    for line in f"vlm-train: {text}".split("\n"):
        log.error("%s", line)
