"""API keys: a file of hashes, and the check of a request's key against it.

A key is generated, never chosen: 256 random bits. So a salted sha256 is enough at rest: a slow hash (scrypt) protects
words that people choose, and would cost every request its time. The part before the secret, the key's id, finds the
entry, so that one hash is computed for a request whatever the number of keys.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlm_core.errors import UserError, shown
from vlm_core.io.atomic import write_file
from vlm_core.io.files import JSON_BYTES, read_text

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"
_KEY = re.compile(r"sk-vlm-([0-9a-f]{12})-([A-Za-z0-9_-]{43})", re.ASCII)
_POLL_SECONDS = 1.0
log = logging.getLogger(__name__)


class KeyEntry(BaseModel):
    """A key as it is kept: the sha256 of its salt and secret, in hexadecimal digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{_NAME}$")
    """Whose key it is; the owner of the states that its requests leave in the cache."""
    id: str = Field(pattern="^[0-9a-f]{12}$")
    salt: str = Field(pattern="^[0-9a-f]{32}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created: str


class _KeyList(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a key file; `UserError` if it is missing, damaged, or open to other users."""
    text = read_text(path, JSON_BYTES)
    mode = os.stat(path).st_mode
    if mode & 0o077:
        raise UserError(
            f"{path}: other users may open this key file (mode {stat.filemode(mode)}); chmod 600 {path}"
        )
    try:
        return _KeyList.model_validate_json(text).keys
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise UserError(f"{path}: no key file as `vlm-serve keys add` writes it: {place} is wrong") from None


def add_key(path: Path, name: str) -> str:
    """Add a key to a file, which is created if it is missing, and return the key: it is kept nowhere else."""
    if not re.fullmatch(_NAME, name):
        raise UserError(
            f"{shown(name)}: no name for a key: 1 to 64 letters, digits and `_.@-`, the first a letter or digit"
        )
    with _locked(path):
        entries = read_keys(path) if os.path.lexists(path) else ()
        if any(entry.name == name for entry in entries):
            raise UserError(
                f"{path}: has a key named {name} already; remove it first, or choose another name"
            )
        number, salt, secret = secrets.token_hex(6), secrets.token_hex(16), secrets.token_urlsafe(32)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        _write(
            path,
            (
                *entries,
                KeyEntry(name=name, id=number, salt=salt, sha256=_hash(salt, secret), created=created),
            ),
        )
    return f"sk-vlm-{number}-{secret}"


def remove_key(path: Path, name: str) -> None:
    """Remove the key of a name; `UserError` if there is none."""
    with _locked(path):
        entries = read_keys(path)
        left = tuple(entry for entry in entries if entry.name != name)
        if len(left) == len(entries):
            names = ", ".join(sorted(entry.name for entry in entries)) or "none"
            raise UserError(f"{path}: no key named {shown(name)}; there are: {names}")
        _write(path, left)


class KeyRing:
    """The keys of a running server; a changed file counts within a second, so that a removed key ends at once.

    While the file can't be read, no key is valid.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._version, self._read_at = path, _version(path), time.monotonic()
        self._entries = {entry.id: entry for entry in read_keys(path)}

    def name_of(self, key: str) -> str | None:
        """The name of a key; None for one that is not valid. Takes the same time for wrong keys of any kind."""
        self._refresh()
        match = _KEY.fullmatch(key)
        number, secret = match.groups() if match else ("", "")
        entry = self._entries.get(number)
        salt, expected = (entry.salt, entry.sha256) if entry else ("", "0" * 64)
        equal = hmac.compare_digest(_hash(salt, secret), expected)
        return entry.name if entry is not None and equal else None

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._read_at < _POLL_SECONDS:
            return
        self._read_at = now
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._entries = {entry.id: entry for entry in read_keys(self._path)}
        except UserError as error:
            self._entries = {}
            log.error("%s; until it is mended no key is valid", error)


def _version(path: Path) -> tuple[int, int, int, int] | None:
    """What changes with a file's content or mode; None if it is missing."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size, facts.st_mode


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands don't change the file at the same time: its folder is locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path}: cannot write there: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, entries: tuple[KeyEntry, ...]) -> None:
    """Write the file so that no other user can ever open it."""
    mask = os.umask(0o077)
    try:
        write_file(path, _KeyList(keys=entries).model_dump_json(indent=1) + "\n")
    finally:
        os.umask(mask)
