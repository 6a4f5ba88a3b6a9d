"""Cache folders of compiled kernels, used only if no other user can write there."""

from __future__ import annotations

import os
from pathlib import Path

from vlm_ssm.runtime.private_folder import why_untrusted


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents with mode 0700, whatever the umask is."""
    for missing in reversed([p for p in folder.parents if not p.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def why_no_cache(path: Path) -> str | None:
    """Why a folder, created if missing, can't hold compiled kernels; None if it can."""
    if problem := why_untrusted(path):
        return problem
    try:
        make_private(path)
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(path, os.W_OK) else "no permission to write"


def user_cache() -> Path:
    """This user's cache folder, as XDG names it."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a home folder: nothing is cached
        return Path(os.devnull)


def kernel_folder(library: str) -> Path:
    """Where compiled kernels of a library are kept."""
    return user_cache() / "vlm-ssm" / "kernels" / library
