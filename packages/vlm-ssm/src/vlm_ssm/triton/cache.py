"""Triton's cache of compiled kernels: a temporary folder of this process if the usual one can't be used."""

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
    """The folder that Triton uses by default."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")
    return os.environ.get(VARIABLE) or os.path.join(home, ".triton", "cache")


def ensure_usable() -> None:
    """Use a temporary cache, with a warning, if Triton's can't be written, or can be written by others.

    Triton would fail at the first kernel, or run what others put there.
    """
    path = folder()
    problem = why_no_cache(Path(path))
    if problem is None:
        return
    os.environ[VARIABLE] = own = tempfile.mkdtemp(prefix="vlm-triton-")
    atexit.register(partial(shutil.rmtree, own, ignore_errors=True))
    sys.stderr.write(f"vlm-ssm: {path}: {problem}; kernels that Triton compiles are not kept\n")
