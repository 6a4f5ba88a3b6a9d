"""The folder of a run: one spec, one process at a time, and files that only grow."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

from vlm_core.errors import UserError
from vlm_core.io.atomic import write_errors, write_file
from vlm_core.io.checksum import verified, with_checksum
from vlm_core.io.files import read_text
from vlm_core.io.manifest import refuse_links
from vlm_core.markup.printable import printable
from vlm_train.checkpoint.jsonl_log import RunLog
from vlm_train.checkpoint.run_dir_schemas import EVALS as EVALS
from vlm_train.checkpoint.run_dir_schemas import LEFT_OUT as LEFT_OUT
from vlm_train.checkpoint.run_dir_schemas import LINES, Evaluation
from vlm_train.checkpoint.run_dir_schemas import METRICS as METRICS
from vlm_train.checkpoint.run_dir_schemas import VALIDATION as VALIDATION

SPEC, INPUTS, CHECKPOINTS, MODEL, AVERAGE = (
    "spec.yaml",
    "inputs.json",
    "checkpoints",
    "model",
    "model-average",
)
ENVIRONMENT, LOCK, RESULTS, TOKENIZER = "environment.json", ".lock", "results.md", "tokenizer"
EVALUATIONS = "evaluations"
OWN = {
    *LINES, SPEC, INPUTS, CHECKPOINTS, MODEL, AVERAGE, ENVIRONMENT, LOCK, RESULTS, TOKENIZER, EVALUATIONS,
    "features", "curves.png", "samples.png", "report.html", "tensorboard", "wandb", "wandb-id",
}  # fmt: skip
"""Names in a run's folder: a kill or a full disk may leave any of them without a spec."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
_OUTPUT = re.compile(r".+\.(log|out|err)|log\.txt")
"""What a shell or a cluster makes of a run's output."""
log = logging.getLogger(__name__)


def is_own(name: str) -> bool:
    """Whether a file or folder of this name in a run's folder is the run's: its own, temporary, or its output."""
    temporary = _TEMPORARY.fullmatch(name)
    return (temporary[1] if temporary else name) in OWN or _OUTPUT.fullmatch(name) is not None


def _forget(held: ReferenceType[RunDir]) -> None:
    """In a forked child, which must not keep its parent's lock when that is killed."""
    if (run := held()) is not None:
        run._let_go()


class RunDir:
    """`spec.yaml`, `metrics.jsonl`, `checkpoints/`, `evaluations/`, results, and at the end `model/`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._logs = {name: RunLog(self.path / name) for name in LINES}
        self._warned: set[str] = set()
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []

    def open(self) -> None:
        """Claim the folder: a new one, or one with a run in it, however far that came.

        Raises `UserError` if it holds other files or links out of it, or if a process is running in it.
        """
        with write_errors(self.path):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                names = os.listdir(self.path)
            except (FileExistsError, NotADirectoryError):
                raise UserError(f"{self.path}: is a file; set train.output to a folder") from None
            except PermissionError:
                raise UserError(f"{self.path}: no permission to write here; set train.output") from None
        others = sorted(name for name in names if not is_own(name))
        if others and not {SPEC, INPUTS} <= set(names):
            raise UserError(
                f"{self.path}: holds other files, such as {printable(others[0], 80)}; set train.output to a new folder"
            )
        for folder in (self.path, self.path / EVALUATIONS):
            refuse_links(folder)
        with write_errors(self.path / LOCK):
            self._claim()

    def _claim(self) -> None:
        path = self.path / LOCK
        self._lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o666)
        os.register_at_fork(after_in_child=partial(_forget, ref(self)))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = printable(os.pread(self._lock, 200, 0).decode("utf-8", "replace").strip())
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
        """Write what still waits in memory, and let another process have the folder."""
        for each in self._logs.values():
            each.close()
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

    def remove(self, name: str) -> None:
        """Remove a file or folder."""
        path = self.path / name
        with write_errors(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def warn(self, text: str) -> None:
        """A warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def log(self, *records: dict[str, Any], name: str = METRICS) -> None:
        """Append a line for each record to a JSONL file, and tell the trackers."""
        self._logs[name].append(records)
        for tell in self.listeners:
            for record in records:
                tell(name, record)

    def sync_logs(self) -> None:
        """Have all lines on the disk, before a checkpoint that follows them."""
        for each in self._logs.values():
            each.sync()

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl."""
        return self.records(METRICS)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Every whole line of a JSONL file of this folder, which may not be there yet."""
        self.inside(name)
        return self._logs[name].read()

    def text(self, name: str) -> str | None:
        """A text file of this folder, None if it is not there; raises `UserError` if it can't be read."""
        return read_text(path) if (path := self.inside(name)) else None

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
        """Drop what was noted of steps that will be done again, and lines that can't be read."""
        for each in self._logs.values():
            each.forget_after(stage, step)

    def evaluation(self, name: str) -> dict[str, Any] | None:
        """A finished evaluation, by name; None, with a warning, for one that can't be read."""
        path = self._evaluation(name)
        if self.inside(f"{EVALUATIONS}/{path.name}") is None:
            return None
        try:
            record = verified(read_text(path), path)
            Evaluation.model_validate(record)
        except ValueError as error:
            reason = str(error) if isinstance(error, UserError) else f"{path}: damaged: no evaluation"
            self.warn(f"{reason}; it is left out, and asked again where that is possible")
            return None
        return record

    def keep_evaluation(self, name: str, record: dict[str, Any]) -> None:
        """Write a finished evaluation."""
        write_file(self._evaluation(name), json.dumps(with_checksum(record)) + "\n")

    def set_aside(self, name: str) -> Path:
        """Move an evaluation to `evaluations/outdated`, which results don't read; returns the path."""
        path = self.path / EVALUATIONS / "outdated" / f"{name}.json"
        with write_errors(path):
            path.parent.mkdir(exist_ok=True)
            os.replace(self._evaluation(name), path)
        return path

    def _evaluation(self, name: str) -> Path:
        return self.path / EVALUATIONS / f"{name}.json"

    def finished(self) -> bool:
        """Whether the run in this folder came to its end, evaluations included."""
        return (self.path / RESULTS).exists()
