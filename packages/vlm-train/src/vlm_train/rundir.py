"""The folder of a run: one spec, one process at a time, and files that only grow."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

from pydantic import BaseModel

from vlm_core.atomic import write_file
from vlm_core.errors import UserError
from vlm_core.files import read_text
from vlm_core.json_text import parse_strict
from vlm_core.spec import Spec
from vlm_train import records

SPEC, METRICS, CHECKPOINTS, MODEL = "spec.yaml", "metrics.jsonl", "checkpoints", "model"
AVERAGE, VALIDATION, LEFT_OUT = "model-average", "validation.jsonl", "left_out.jsonl"
ENVIRONMENT, LOCK, RESULTS, EVALS = "environment.json", ".lock", "results.md", "evals.jsonl"
_LINES: dict[str, type[BaseModel]] = {
    METRICS: records.Step, VALIDATION: records.Validation, EVALS: records.Evals, LEFT_OUT: records.LeftOut,
}  # fmt: skip
MAX_BYTES = 2**30
"""Of a file of records; a million steps take a third of it."""
log = logging.getLogger(__name__)


def _forget(held: ReferenceType[RunDir]) -> None:
    """In a forked child, which must not keep its parent's lock when that is killed."""
    if (run := held()) is not None:
        run._let_go()


class RunDir:
    """`spec.yaml`, `metrics.jsonl`, `checkpoints/`, `evaluations/`, results, and at the end `model/`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []

    def open(self, spec: Spec) -> None:
        """Claim the folder: new, for this spec, or with a run in it.

        Raises `UserError` if it holds other files, or if a process is running in it.
        """
        try:
            if self.path.exists() and not (self.path / SPEC).exists() and any(self.path.iterdir()):
                raise UserError(f"{self.path}: holds other files; set train.output to a new folder")
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.path}: is a file; set train.output to a folder") from None
        except PermissionError:
            raise UserError(f"{self.path}: no permission to write here; set train.output") from None
        self._claim()
        if not (self.path / SPEC).exists():
            self.write(SPEC, spec.to_yaml())

    def _claim(self) -> None:
        path = self.path / LOCK
        self._lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        os.register_at_fork(after_in_child=partial(_forget, ref(self)))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip()
            self._let_go()
            raise UserError(
                f"{self.path}: another process is running in this folder" + (f": {holder}" if holder else "")
            ) from None
        except OSError as error:
            log.warning(
                "%s: can't be locked (%s): see to it that no second run uses it", self.path, error.strerror
            )
        os.truncate(self._lock, 0)
        os.write(self._lock, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            fcntl.flock(
                self._lock, fcntl.LOCK_UN
            )  # at once, also while a child just forked still holds a copy
            self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, text: str) -> Path:
        """Write a small file in one step."""
        write_file(self.path / name, text)
        return self.path / name

    def log(self, *records: dict[str, Any], name: str = METRICS) -> None:
        """Append a line for each record to a JSONL file, and tell the trackers."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
        for tell in self.listeners:
            for record in records:
                tell(name, record)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl."""
        return self.records(METRICS)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Every whole line of a JSONL file of this folder, which may not be there yet.

        A last line that a kill cut off is no record. Raises `UserError` with file and line for any other that is not
        what a run writes.
        """
        text = self.text(name)
        lines = (text or "").split("\n")
        if not lines[-1].endswith("}"):
            lines.pop()
        found = []
        for number, line in enumerate(lines, 1):
            data = parse_strict(line, self.path / name, number, only=True, as_written=True)
            found.append(records.checked(data, _LINES[name], f"{self.path / name}:{number}"))
        return found

    def text(self, name: str) -> str | None:
        """A text file of this folder, None if it is not there; raises `UserError` if it can't be read."""
        return read_text(path, MAX_BYTES) if (path := self.inside(name)) else None

    def inside(self, name: str) -> Path | None:
        """The path of a file of this folder, None if it is not there; a link that leaves the folder is refused."""
        path = self.path / name
        if not os.path.lexists(path):
            return None
        root = os.path.realpath(self.path)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise UserError(f"{path}: a symbolic link out of the run folder; put the file itself there")
        return path

    def forget_after(self, stage: int, step: int) -> None:
        """Drop what was noted of steps that will be done again."""
        for name in (METRICS, VALIDATION, EVALS, LEFT_OUT):
            kept = [m for m in self.records(name) if (m["stage"], m["step"]) <= (stage, step)]
            if kept or (self.path / name).exists():
                self.write(name, "".join(json.dumps(m) + "\n" for m in kept))

    def evaluation(self, name: str) -> dict[str, Any] | None:
        """A finished evaluation, by name."""
        file = f"evaluations/{name}.json"
        if (text := self.text(file)) is None:
            return None
        where = self.path / file
        return records.checked(parse_strict(text, where, as_written=True), records.Evaluation, str(where))

    def set_aside(self, name: str) -> Path:
        """Move an evaluation to `evaluations/outdated`, which results don't read; returns the path."""
        path = self.path / "evaluations" / "outdated" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        os.replace(self.path / "evaluations" / f"{name}.json", path)
        return path

    def finished(self) -> bool:
        """Whether the run in this folder came to its end, evaluations included."""
        return (self.path / RESULTS).exists()
