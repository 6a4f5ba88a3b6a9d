"""Where Triton keeps compiled kernels: in a folder of this process where its own can't be written."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from vlm_core.folder import why_unwritable

VARIABLE = "TRITON_CACHE_DIR"


def folder() -> str:
    """What Triton would use, by its own rule."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")
    return os.environ.get(VARIABLE) or os.path.join(home, ".triton", "cache")


def ensure_writable() -> None:
    """Point Triton elsewhere, and say so, if its cache can't be written: it would raise at the first kernel."""
    path = folder()
    problem = why_unwritable(Path(path))
    if problem is None:
        return
    os.environ[VARIABLE] = own = tempfile.mkdtemp(prefix="vlm-triton-")
    atexit.register(partial(shutil.rmtree, own, ignore_errors=True))
    sys.stderr.write(f"vlm-core: {path}: {problem}; kernels that Triton compiles are not kept\n")
