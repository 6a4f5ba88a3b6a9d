"""The folder of a run: one spec, one process at a time, and files that only grow."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vlm_core.errors import UserError
from vlm_core.spec import Spec

SPEC, METRICS, CHECKPOINTS, MODEL = "spec.yaml", "metrics.jsonl", "checkpoints", "model"


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict | list) and data:
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _flat(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, data


def differing_keys(old: str, new: str) -> list[str]:
    """Dotted keys in which two YAML texts differ."""
    a, b = dict(_flat(yaml.safe_load(old))), dict(_flat(yaml.safe_load(new)))
    missing = object()
    return sorted(key for key in a.keys() | b.keys() if a.get(key, missing) != b.get(key, missing))


class RunDir:
    """`spec.yaml`, `metrics.jsonl`, `checkpoints/`, `evaluations/`, results, and at the end `model/`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None

    def open(self, spec: Spec) -> None:
        """Claim the folder for this spec: new, or the same run to go on with.

        Raises `UserError` if it holds another run or other files, or if a process is running in it.
        """
        text = spec.to_yaml()
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
            self.write(SPEC, text)
        elif keys := differing_keys((self.path / SPEC).read_text(encoding="utf-8"), text):
            some = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise UserError(
                f"{self.path}: holds another run; its spec differs in {some}. "
                "Set train.output to a new folder, or remove this one"
            )

    def _claim(self) -> None:
        self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UserError(f"{self.path}: another process is running in this folder") from None

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name: str, text: str) -> Path:
        """Write a small file in one step."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}.tmp")
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
        return path

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def forget_after(self, stage: int, step: int) -> None:
        """Drop metrics of steps that will be done again."""
        kept = [m for m in self.metrics() if (m["stage"], m["step"]) <= (stage, step)]
        self.write(METRICS, "".join(json.dumps(m) + "\n" for m in kept))

    def evaluation(self, name: str) -> dict[str, Any] | None:
        """A finished evaluation, by name."""
        path = self.path / "evaluations" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
