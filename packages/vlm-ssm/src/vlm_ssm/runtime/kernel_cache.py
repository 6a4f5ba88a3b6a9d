"""Folders of compiled kernels: used only where no other user can put files."""

from __future__ import annotations

import os
from pathlib import Path

from vlm_ssm.runtime.private_folder import why_untrusted


def make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing, for this user alone whatever the umask is."""
    for missing in reversed([p for p in folder.parents if not p.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def why_no_cache(path: Path) -> str | None:
    """What keeps a folder, made if it is not there, from holding files that will be run; None if nothing does."""
    if problem := why_untrusted(path):
        return problem
    try:
        make_private(path)
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(path, os.W_OK) else "no permission to write"


def kernel_folder(library: str) -> Path:
    """Where compiled kernels of a library are kept: a folder of this user's cache, as XDG names it."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "vlm-ssm" / "kernels" / library
    try:
        return Path.home() / ".cache" / "vlm-ssm" / "kernels" / library
    except RuntimeError:  # a user without a home: nothing is kept
        return Path(os.devnull)
