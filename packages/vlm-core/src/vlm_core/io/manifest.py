"""Folders with a manifest of hashes, which is verified before other files are read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlm_core.errors import UserError
from vlm_core.io.atomic import atomic_dir
from vlm_core.io.checksum import verified, with_checksum
from vlm_core.io.files import JSON_BYTES, JSON_VALUES, open_regular, read_text
from vlm_core.markup.printable import printable

MANIFEST, CARD = "manifest.json", "README.md"
MAX_NAME, MAX_PATH = 255, 1024
"""Limits in bytes of a file name and of a path inside a folder."""
_SHA256 = re.compile("[0-9a-f]{64}")
_RESTORE = "restore the folder from a copy"


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while data := file.read(2**16):
            digest.update(data)
    return digest.hexdigest()


def write_folder(
    path: str | Path,
    write: Callable[[Path], Mapping[str, str] | None],
    facts: dict[str, Any],
    card: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """Create the folder `path` atomically, with the files of `write(folder)` and a manifest of hashes and `facts`.

    The manifest has its own checksum. `write` may return known hashes by name. `card(manifest)` is the text of a
    README.md, which is not in the manifest: people edit it.
    """
    with atomic_dir(path) as tmp:
        known = write(tmp) or {}
        files = sorted(f for f in tmp.rglob("*") if f.is_file())
        names = {f.relative_to(tmp).as_posix(): f for f in files}
        listed = {
            n: {"bytes": f.stat().st_size, "sha256": known.get(n) or sha256(f)} for n, f in names.items()
        }
        manifest = with_checksum({**facts, "files": listed})
        (tmp / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if card:
            (tmp / CARD).write_text(card(manifest), encoding="utf-8")


def refuse_outside(path: Path, names: Iterable[str]) -> None:
    """Raise `UserError` for a file of a folder that is a link out of it.

    Links of the hub's cache, from a snapshot to the blobs of the same repository, are allowed.
    """
    home = path.resolve()
    cache = next((p.parent / "blobs" for p in home.parents if p.name == "snapshots"), home)
    _stay([*path.rglob("*"), *(path / name for name in names)], [home, cache])


def refuse_links(folder: Path, pattern: str = "*") -> None:
    """Raise `UserError` for a file or folder in `folder` that is a link out of it: writing would overwrite its target.

    Links to character devices, such as /dev/null, are allowed.
    """
    _stay(
        (path for path in folder.glob(pattern) if not path.is_char_device()), [Path(os.path.realpath(folder))]
    )


def _stay(files: Iterable[Path], homes: Iterable[Path]) -> None:
    for link in (file for file in files if file.is_symlink()):
        target = Path(os.path.realpath(link))  # unlike resolve() with an answer for a link to itself
        if not any(target.is_relative_to(home) for home in homes):
            raise UserError(
                f"{printable(link)}: a link that leaves the folder, to {printable(target)}; put a copy there"
            )


def require_model_folder(path: str | Path) -> None:
    """Raise `UserError` if `path` is not a folder; `verify_folder` checks its content."""
    if Path(path).is_dir():
        return
    fault = "not a folder, but a model folder is expected" if os.path.exists(path) else "no such model folder"
    raise UserError(f"{path}: {fault}; vlm-assemble SPEC --out DIR and vlm-train write one")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a folder; `UserError` if it is missing or damaged."""
    require_model_folder(path)
    file = Path(path) / MANIFEST
    if not os.path.lexists(file):
        inside = f"; {Path(path, 'model')} is one" if Path(path, "model", MANIFEST).is_file() else ""
        raise UserError(f"{path}: not a model folder: it has no {MANIFEST}{inside}")
    try:
        manifest = verified(read_text(file, JSON_BYTES), file, JSON_VALUES)
    except UserError as error:
        raise UserError(f"{error}; {_RESTORE}") from None
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise UserError(f"{file}: damaged: `files` is not a mapping of names; {_RESTORE}")
    if invalid := [name for name, fact in files.items() if not _is_entry(name, fact)]:
        what = f"{printable(invalid[0], 200)!r} is no file of this folder, with its size and hash"
        raise UserError(f"{file}: damaged: its list of files: {what}; {_RESTORE}")
    refuse_outside(Path(path), files)
    return manifest


def _is_entry(name: str, fact: object) -> bool:
    """Whether an entry of the manifest is a file name inside the folder with size and hash."""
    inside = PurePosixPath(name)
    if not name or inside.is_absolute() or ".." in inside.parts or "\0" in name or name == MANIFEST:
        return False
    lengths = [len(part.encode("utf-8", "surrogatepass")) for part in inside.parts]
    if sum(lengths) > MAX_PATH or max(lengths, default=0) > MAX_NAME:
        return False
    if not isinstance(fact, dict) or set(fact) != {"bytes", "sha256"}:
        return False
    size, digest = fact["bytes"], fact["sha256"]
    return type(size) is int and isinstance(digest, str) and _SHA256.fullmatch(digest) is not None


def verify_folder(
    path: str | Path, needed: Iterable[str] = (), *, alone: bool = False, unread: str | None = None
) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest; `UserError` names the first bad file.

    `needed` are names that the manifest must list. In subfolders with listed files, every file must be listed unless
    its name begins with a dot; with `alone`, this holds for the whole folder. Files with the name `unread`, which the
    caller doesn't read, are not checked.
    """
    path = Path(path)
    manifest = read_manifest(path)
    files = manifest["files"]
    if absent := [name for name in needed if name not in files]:
        raise UserError(
            f"{path / absent[0]}: not listed in {MANIFEST}, so that nothing verifies it; {_RESTORE}"
        )
    for name, fact in files.items():
        if PurePosixPath(name).name != unread:
            _verify(path / name, fact)
    for name in _unlisted(path, files, alone):
        raise UserError(
            f"{printable(path / name)}: not listed in {MANIFEST}, so that nothing verifies it; remove this file"
        )
    return manifest


def _verify(file: Path, fact: Mapping[str, Any]) -> None:
    try:
        if not file.is_file():
            raise UserError(f"{printable(file)}: missing, but listed in {MANIFEST}; {_RESTORE}")
        size = file.stat().st_size
        if size != fact["bytes"]:
            raise UserError(f"{file}: {size} bytes instead of {fact['bytes']}: truncated or changed")
        if sha256(file) != fact["sha256"]:
            raise UserError(f"{file}: its sha256 differs from {MANIFEST}: damaged or changed")
    except OSError as error:
        raise UserError(f"{file}: cannot read this file: {error.strerror or error}") from None


def _unlisted(path: Path, files: Mapping[str, Any], alone: bool) -> list[str]:
    """Unlisted files, of the whole folder if `alone`, else of subfolders with listed files."""
    subfolders = {PurePosixPath(name).parts[0] for name in files if "/" in name}
    unlisted = []
    for file in path.rglob("*"):
        name = file.relative_to(path)
        if (
            file.is_dir()
            or name.as_posix() in {MANIFEST, CARD, *files}
            or any(p.startswith(".") for p in name.parts)
        ):
            continue
        if alone or (len(name.parts) > 1 and name.parts[0] in subfolders):
            unlisted.append(name.as_posix())
    return sorted(unlisted)
