"""Folders that are whole or not there: written aside, hashed, renamed; verified before anything is read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_folder(path: Path, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
    """Create folder `path` with what `write(folder)` puts there and a manifest of hashes and `facts`.

    Everything is written beside `path`, flushed to disk, and renamed in one step; on any failure nothing is
    left. Raises `UserError` if `path` exists.
    """
    if path.exists():
        raise UserError(f"{path} exists already; name another folder, or remove this one")
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    aside.mkdir(parents=True)
    try:
        write(aside)
        files = sorted(f for f in aside.rglob("*") if f.is_file())
        listed = {
            f.relative_to(aside).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files
        }
        (aside / MANIFEST).write_text(json.dumps({**facts, "files": listed}, indent=1) + "\n")
        for file in [*files, aside / MANIFEST, aside]:
            _sync(file)
        os.rename(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a folder; `UserError` when there is none or it is damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        assert isinstance(manifest["files"], dict)
    except FileNotFoundError:
        raise UserError(f"{path}: not a model folder: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path / MANIFEST}: damaged; restore the folder from a copy") from None
    return manifest


def verify_folder(path: Path) -> dict[str, Any]:
    """Check every file against the manifest and return it; the first bad file is named in a `UserError`."""
    manifest = read_manifest(path)
    for name, fact in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file}: missing, but listed in {MANIFEST}; restore the folder from a copy")
        size = file.stat().st_size
        if size != fact["bytes"]:
            raise UserError(f"{file}: {size} bytes instead of {fact['bytes']}: truncated or changed")
        if sha256(file) != fact["sha256"]:
            raise UserError(f"{file}: its sha256 differs from {MANIFEST}: damaged or changed")
    return manifest
