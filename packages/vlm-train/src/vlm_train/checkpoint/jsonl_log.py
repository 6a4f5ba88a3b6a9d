"""A JSONL file that only grows: lines that can't be written wait in memory, lines that can't be read are left out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from vlm_core.errors import UserError
from vlm_core.io.atomic import sync, write_file
from vlm_core.io.files import open_regular
from vlm_core.io.strict_json import parse_strict, validated
from vlm_train.checkpoint.run_dir_schemas import LINES

WAITING_LINES = 10_000
"""So many lines that can't be written are kept in memory; of more, the newest."""
MAX_BYTES, MAX_LINE, MAX_UNREAD = 2 * 2**30, 16 * 2**20, 100_000
"""Bytes of a log, of a line that is read, and lines that can't be: a file of holes takes no place on a disk."""
_WITHOUT = "move it out of the folder: the run goes on without it"
log = logging.getLogger(__name__)


class RunLog:
    """One log of a run's folder, whose lines are as `run_records` says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[str] = []
        self._lost = 0
        self._told_unwritten = self._told_unread = False

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a line for each. If the disk takes none, they are tried again with the next; one warning."""
        self.waiting += [json.dumps(record) + "\n" for record in records]
        reason = self._write()
        if reason and not self._told_unwritten:
            self._told_unwritten = True
            log.warning(
                "%s: cannot write: %s; its lines are kept in memory and tried again", self.path, reason
            )
        self._lost += max(0, len(self.waiting) - WAITING_LINES)
        del self.waiting[:-WAITING_LINES]

    def _write(self) -> str | None:
        """Write what waits; -> why it can't be written."""
        try:
            _append(self.path, "".join(self.waiting).encode())
        except OSError as error:
            return error.strerror or str(error)
        self.waiting = []
        return None

    def sync(self) -> None:
        """Have what is written on the disk, which may fail: what is read again is checked line by line."""
        if self.waiting:
            self._write()
        with suppress(OSError):
            sync(self.path)

    def close(self) -> None:
        """Write what still waits, or tell that it never was written."""
        reason = self._write() if self.waiting else None
        if missing := self._lost + len(self.waiting):
            count = f"{missing} line{'s were' if missing > 1 else ' was'}"
            log.warning("%s: %s never written: %s", self.path, count, reason or "too many waited")
        self._lost, self.waiting = 0, []

    def read(self) -> list[dict[str, Any]]:
        """Every line that can be read, those in memory included; one warning counts the others.

        Raises `UserError` for a file that is no log at all, by its size or by its lines.
        """
        records, unread = self._read()
        if unread and not self._told_unread:
            self._told_unread = True
            log.warning(
                "%s: %d lines can't be read and are left out, the first is line %d",
                self.path,
                len(unread),
                unread[0],
            )
        return records

    def _read(self) -> tuple[list[dict[str, Any]], list[int]]:
        """-> (records, numbers of the lines that are none)."""
        records, unread = [], []
        schema = LINES[self.path.name]
        if self.path.exists():
            with open_regular(self.path) as file:
                for number, line in enumerate(_lines(file, self.path), 1):
                    if (record := _parsed(line, schema)) is not None:
                        records.append(record)
                    elif len(unread) == MAX_UNREAD:
                        raise UserError(
                            f"{self.path}: more than {MAX_UNREAD} lines are no records; {_WITHOUT}"
                        )
                    else:
                        unread.append(number)
        return records + [json.loads(line) for line in self.waiting], unread

    def forget_after(self, stage: int, step: int) -> None:
        """Drop the lines of later steps, and those that can't be read."""
        records, unread = self.read(), self._read()[1]
        kept = [record for record in records if (record["stage"], record["step"]) <= (stage, step)]
        if unread or len(kept) < len(records):
            write_file(self.path, "".join(json.dumps(record) + "\n" for record in kept))


def _append(path: Path, data: bytes) -> None:
    """Add whole lines to a file, or nothing; a half line that a kill left there is ended."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        try:
            while data:
                data = data[os.write(handle, data) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of a log; of one that is longer than any record only a part, which is none."""
    if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
        raise UserError(f"{path}: {size} bytes; at most {MAX_BYTES} are read; {_WITHOUT}")
    while line := file.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)


def _parsed(line: bytes, schema: type[BaseModel]) -> dict[str, Any] | None:
    """The record that a line holds, None for anything else."""
    try:
        return validated(parse_strict(line.decode("utf-8"), "", as_written=True), schema, "")
    except ValueError:  # not UTF-8, not JSON, or another record
        return None
