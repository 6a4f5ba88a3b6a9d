"""The folder of a run: of one spec, locked by one process, with append-only logs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

from vlm_core.errors import UserError
from vlm_core.evaluation.baselines import MAJORITY_ANSWER
from vlm_core.io.atomic import write_errors, write_file
from vlm_core.io.checksum import verified, with_checksum
from vlm_core.io.files import read_text
from vlm_core.io.manifest import refuse_links
from vlm_core.markup.printable import printable
from vlm_train.checkpoint.jsonl_log import RunLog
from vlm_train.checkpoint.run_dir_schemas import DROPPED_SAMPLES as DROPPED_SAMPLES
from vlm_train.checkpoint.run_dir_schemas import EVALS as EVALS
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
EVALUATIONS, MICRO_BATCH_SIZES = "evaluations", "micro_batch_sizes.json"
_EARLIER_NAMES = {MAJORITY_ANSWER: "question alone"}
"""Names of evaluations in run folders of earlier versions."""
OWN = {
    *LINES,
    SPEC,
    INPUTS,
    CHECKPOINTS,
    MODEL,
    AVERAGE,
    ENVIRONMENT,
    LOCK,
    RESULTS,
    TOKENIZER,
    EVALUATIONS,
    MICRO_BATCH_SIZES,
    "features",
    "curves.png",
    "samples.png",
    "report.html",
    "tensorboard",
    "wandb",
    "wandb-id",
}
"""Names in a run folder: after a kill or on a full disk any of them may exist without a spec."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
_OUTPUT = re.compile(r".+\.(log|out|err)|log\.txt")
"""Files into which shells and clusters redirect the output of a run."""
log = logging.getLogger(__name__)


def is_own(name: str) -> bool:
    """Whether a run writes a file or folder of this name into its folder, temporary ones and its output included."""
    temporary = _TEMPORARY.fullmatch(name)
    return (temporary[1] if temporary else name) in OWN or _OUTPUT.fullmatch(name) is not None


def _by_model(record: Mapping[str, Any]) -> bool:
    """Whether a model gave an evaluation's answers: then it records their longest length."""
    return "max_new_tokens" in record.get("of", {})


def _release_in_child(reference: ReferenceType[RunDir]) -> None:
    """Close the lock in a forked child, which must not keep it when its parent is killed."""
    if (run := reference()) is not None:
        run._release()


class RunDir:
    """`spec.yaml`, `metrics.jsonl`, `checkpoints/`, `evaluations/`, results, and at the end `model/`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._logs = {name: RunLog(self.path / name) for name in LINES}
        self._warned: set[str] = set()
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []

    def open(self) -> None:
        """Create and lock the folder, or lock that of an earlier run.

        Raises `UserError` if it holds other files or links out of it, or if another process has locked it.
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
            self._lock_folder()

    def _lock_folder(self) -> None:
        path = self.path / LOCK
        self._lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o666)
        os.register_at_fork(after_in_child=partial(_release_in_child, ref(self)))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = printable(os.pread(self._lock, 200, 0).decode("utf-8", "replace").strip())
            self._release()
            raise UserError(
                f"{self.path}: another process is running in this folder" + (f": {holder}" if holder else "")
            ) from None
        except OSError as error:
            log.warning(
                "%s: can't be locked (%s): make sure that no second run uses it", self.path, error.strerror
            )
        os.truncate(self._lock, 0)
        os.write(self._lock, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())

    def close(self) -> None:
        """Write the log lines that wait in memory, and unlock the folder."""
        for each in self._logs.values():
            each.close()
        if self._lock is not None:
            # closing alone would not unlock while a child just forked has a copy
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, text: str) -> Path:
        """Write a small file atomically; returns its path."""
        write_file(self.path / name, text)
        return self.path / name

    def remove(self, name: str) -> None:
        """Remove a file or folder."""
        path = self.path / name
        with write_errors(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def warn(self, text: str) -> None:
        """Log a warning, once for each text."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

    def log(self, *records: dict[str, Any], name: str = METRICS) -> None:
        """Append a line for each record to a JSONL file, and pass the records to the listeners."""
        self._logs[name].append(records)
        for listener in self.listeners:
            for record in records:
                listener(name, record)

    def sync_logs(self) -> None:
        """Flush all logs to the disk, before a checkpoint of a later step."""
        for each in self._logs.values():
            each.sync()

    def metrics(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`."""
        return self.records(METRICS)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The records of a JSONL file of this folder; none if it does not exist yet."""
        self.inside(name)
        return self._logs[name].read()

    def text(self, name: str) -> str | None:
        """The text of a file of this folder, None if it does not exist; raises `UserError` if it can't be read."""
        return read_text(path) if (path := self.inside(name)) else None

    def inside(self, name: str) -> Path | None:
        """The path of a file of this folder, None if it does not exist; `UserError` for a link out of the folder."""
        path = self.path / name
        if not os.path.lexists(path):
            return None
        root = os.path.realpath(self.path)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise UserError(f"{path}: a symbolic link out of the run folder; put the file itself there")
        return path

    def drop_after(self, stage: int, step: int) -> None:
        """Remove the log lines of steps that will be repeated, and the invalid ones."""
        for each in self._logs.values():
            each.drop_after(stage, step)

    def evaluation(self, name: str) -> dict[str, Any] | None:
        """The record of a finished evaluation; None if there is none, or, with a warning, if it can't be read."""
        stored = name if self._has_evaluation(name) else _EARLIER_NAMES.get(name, name)
        record = self._record(stored)
        if record and stored in _EARLIER_NAMES.values() and _by_model(record) != (stored == name):
            return None  # earlier versions gave another evaluation this name
        return record

    def _has_evaluation(self, name: str) -> bool:
        return self.inside(f"{EVALUATIONS}/{self._evaluation(name).name}") is not None

    def _record(self, name: str) -> dict[str, Any] | None:
        if not self._has_evaluation(name):
            return None
        path = self._evaluation(name)
        try:
            record = verified(read_text(path), path)
            Evaluation.model_validate(record)
        except ValueError as error:
            reason = str(error) if isinstance(error, UserError) else f"{path}: damaged: no evaluation"
            self.warn(f"{reason}; it is ignored, and repeated where that is possible")
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
        """Whether the run has finished, evaluations included."""
        return (self.path / RESULTS).exists()
