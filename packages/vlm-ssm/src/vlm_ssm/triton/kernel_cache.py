"""Triton's cache of compiled kernels: a temporary folder for this process if the default one can't be used."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from vlm_ssm.runtime.kernel_cache import why_no_cache

VARIABLE = "TRITON_CACHE_DIR"


def folder() -> str:
    """Triton's cache folder, as its environment variables set it."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")
    return os.environ.get(VARIABLE) or os.path.join(home, ".triton", "cache")


def ensure_usable() -> None:
    """Use a temporary cache, with a warning, if Triton's folder is not writable, or writable by other users.

    Triton would fail at the first kernel, or run files that others put there.
    """
    path = folder()
    problem = why_no_cache(Path(path))
    if problem is None:
        return
    os.environ[VARIABLE] = temporary = tempfile.mkdtemp(prefix="vlm-triton-")
    atexit.register(partial(shutil.rmtree, temporary, ignore_errors=True))
    sys.stderr.write(f"vlm-ssm: {path}: {problem}; kernels that Triton compiles are not cached\n")
