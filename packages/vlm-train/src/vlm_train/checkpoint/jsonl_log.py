"""An append-only JSONL file: lines that can't be written wait in memory, lines that can't be read are skipped."""

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
"""Most lines kept in memory while the file can't be written; the oldest are lost first."""
MAX_BYTES, MAX_LINE, MAX_UNREAD = 2 * 2**30, 16 * 2**20, 100_000
"""Most bytes of a log and of a line, and most unreadable lines: a sparse file may claim any size."""
_ADVICE = "move it out of the folder: the run resumes without it"
log = logging.getLogger(__name__)


class RunLog:
    """One log of a run folder; `run_dir_schemas.LINES` has the schema of its lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[str] = []
        self._lost = 0
        self._warned_unwritten = self._warned_unread = False

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a line for each record. After a failure they are written with the next ones; one warning."""
        self.waiting += [json.dumps(record) + "\n" for record in records]
        reason = self._write()
        if reason and not self._warned_unwritten:
            self._warned_unwritten = True
            log.warning(
                "%s: cannot write: %s; its lines are kept in memory and tried again", self.path, reason
            )
        self._lost += max(0, len(self.waiting) - WAITING_LINES)
        del self.waiting[:-WAITING_LINES]

    def _write(self) -> str | None:
        """Write the waiting lines; -> the reason if that failed."""
        try:
            _append(self.path, "".join(self.waiting).encode())
        except OSError as error:
            return error.strerror or str(error)
        self.waiting = []
        return None

    def sync(self) -> None:
        """Flush to the disk; a failure is ignored, since every line is checked when it is read."""
        if self.waiting:
            self._write()
        with suppress(OSError):
            sync(self.path)

    def close(self) -> None:
        """Write the waiting lines, or warn that they are lost."""
        reason = self._write() if self.waiting else None
        if missing := self._lost + len(self.waiting):
            count = f"{missing} line{'s were' if missing > 1 else ' was'}"
            log.warning("%s: %s never written: %s", self.path, count, reason or "too many waited")
        self._lost, self.waiting = 0, []

    def read(self) -> list[dict[str, Any]]:
        """The records of all valid lines, those in memory included; one warning counts the invalid ones.

        Raises `UserError` for more than `MAX_BYTES` or more than `MAX_UNREAD` invalid lines.
        """
        records, unread = self._read()
        if unread and not self._warned_unread:
            self._warned_unread = True
            log.warning(
                "%s: %d lines can't be read and are left out, the first is line %d",
                self.path,
                len(unread),
                unread[0],
            )
        return records

    def _read(self) -> tuple[list[dict[str, Any]], list[int]]:
        """-> (records, numbers of the invalid lines)."""
        records, unread = [], []
        schema = LINES[self.path.name]
        if self.path.exists():
            with open_regular(self.path) as file:
                for number, line in enumerate(_lines(file, self.path), 1):
                    if (record := _parsed(line, schema)) is not None:
                        records.append(record)
                    elif len(unread) == MAX_UNREAD:
                        raise UserError(
                            f"{self.path}: more than {MAX_UNREAD} lines are no records; {_ADVICE}"
                        )
                    else:
                        unread.append(number)
        return records + [json.loads(line) for line in self.waiting], unread

    def drop_after(self, stage: int, step: int) -> None:
        """Remove the lines of later steps, and the invalid ones."""
        records, unread = self.read(), self._read()[1]
        earlier = [record for record in records if (record["stage"], record["step"]) <= (stage, step)]
        if unread or len(earlier) < len(records):
            write_file(self.path, "".join(json.dumps(record) + "\n" for record in earlier))


def _append(path: Path, data: bytes) -> None:
    """Append whole lines, or nothing; an incomplete last line, as a kill leaves it, is ended first."""
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
    """The lines of a log; one longer than `MAX_LINE` is cut, and so is invalid."""
    if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
        raise UserError(f"{path}: {size} bytes; at most {MAX_BYTES} are read; {_ADVICE}")
    while line := file.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)


def _parsed(line: bytes, schema: type[BaseModel]) -> dict[str, Any] | None:
    """The record of a line, None for an invalid one."""
    try:
        return validated(parse_strict(line.decode("utf-8"), "", as_written=True), schema, "")
    except ValueError:  # not UTF-8, not JSON, or another record
        return None
