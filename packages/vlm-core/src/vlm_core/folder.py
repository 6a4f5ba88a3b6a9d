"""Folders with a manifest of hashes, verified before anything is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlm_core.atomic import whole_folder
from vlm_core.errors import UserError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(2**16):
            digest.update(data)
    return digest.hexdigest()


def why_unwritable(path: Path) -> str | None:
    """What keeps a folder, made if it is not there, from being written; None if nothing does."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(path, os.W_OK) else "no permission to write"


def write_folder(
    path: str | Path,
    write: Callable[[Path], Mapping[str, str] | None],
    facts: dict[str, Any],
    card: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """Create folder `path` with what `write(folder)` puts there and a manifest of hashes and `facts`, or nothing.

    `write` may return hashes that it knows, by name. `card(manifest)` is the text of a README.md, which the manifest
    leaves out: people edit it.
    """
    with whole_folder(path) as aside:
        known = write(aside) or {}
        files = sorted(f for f in aside.rglob("*") if f.is_file())
        names = {f.relative_to(aside).as_posix(): f for f in files}
        listed = {
            n: {"bytes": f.stat().st_size, "sha256": known.get(n) or sha256(f)} for n, f in names.items()
        }
        manifest = {**facts, "files": listed}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if card:
            (aside / "README.md").write_text(card(manifest), encoding="utf-8")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a folder; `UserError` when there is none or it is damaged."""
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        assert isinstance(manifest["files"], dict)
    except FileNotFoundError:
        inside = f"; {path / 'model'} is one" if (path / "model" / MANIFEST).is_file() else ""
        raise UserError(f"{path}: not a model folder: it has no {MANIFEST}{inside}") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path / MANIFEST}: damaged; restore the folder from a copy") from None
    return manifest


def verify_folder(path: str | Path) -> dict[str, Any]:
    """Check every file against the manifest and return it; the first bad file is named in a `UserError`."""
    path = Path(path)
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
