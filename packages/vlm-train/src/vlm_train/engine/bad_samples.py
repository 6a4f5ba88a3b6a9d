"""Dropped samples: their budget, and their log in the run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vlm_core.errors import BadSample, UserError
from vlm_core.rows import Row, Rows, known_faults
from vlm_train.checkpoint.run_dir import DROPPED_SAMPLES, RunDir
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import FATAL, TOO_LONG, DroppedSample

_CHECK = "vlm-train check lists all of them"


def allowance(train: TrainConfig, rows: int) -> int:
    """How many of a stage's rows may be bad."""
    if train.on_bad_sample == "error":
        return 0
    budget = train.bad_sample_budget
    return budget if isinstance(budget, int) else int(budget * rows)


def _over(bad: int, allowed: int, rows: int) -> str:
    return f"{bad} of {rows} rows are bad, and train.bad_sample_budget allows {allowed}: repair the data, or raise it"


def check_budget(rows: Sequence[Row], train: TrainConfig, where: str) -> None:
    """Raise `UserError` if the data has more known bad rows than the budget allows; reads no row."""
    faults = known_faults(rows)
    if len(faults) <= allowance(train, len(rows)):
        return
    missing = missing_lines(rows)
    if train.on_bad_sample == "error":
        refuse(faults, len(rows), where, "repair them, or drop them with train.on_bad_sample: skip", missing)
    raise UserError(
        f"{where}: {_over(len(faults), allowance(train, len(rows)), len(rows))}; {_CHECK}", *missing
    )


def missing_lines(rows: Sequence[Row]) -> list[str]:
    """Indented lines about missing images, one for each folder."""
    return [f"  {line}" for line in rows.missing()] if isinstance(rows, Rows) else []


def refuse(
    faults: Mapping[int, BadSample], rows: int, where: str, advice: str, missing: Sequence[str] = ()
) -> None:
    """Raise the fault of the first bad row, if there is one, with the number of bad rows and lines about images."""
    for error in faults.values():
        more = [f"{len(faults)} of {rows} rows are bad; {_CHECK}; {advice}", *missing] * (len(faults) > 1)
        raise UserError(f"{where}: {error}", *more)


class DroppedSamples:
    """The samples that one stage has dropped so far, each counted once.

    Every process has the same record: `record` takes the samples that all of them dropped.
    """

    def __init__(self, train: TrainConfig, number: int, rows: int, run: RunDir, step: int) -> None:
        self.train, self.number, self.rows, self.run = train, number, rows, run
        self.name = train.stages[number].name
        earlier = [m for m in run.records(DROPPED_SAMPLES) if m["stage"] == number and m["step"] <= step]
        self.seen = {m["row"]: m["reason"] for m in earlier}

    def record(self, step: int, dropped: Sequence[DroppedSample], write: bool = True) -> None:
        """Record the samples dropped in step `step` (from 1); raises `UserError` if the spec does not allow one."""
        fresh = {item.row: item for item in dropped if item.row not in self.seen}
        self.seen |= {row: item.reason for row, item in fresh.items()}
        if write and fresh:
            records = [{**self._place(step), **asdict(item)} for item in fresh.values()]
            self.run.log(*records, name=DROPPED_SAMPLES)
        for item in dropped:
            self._raise_if_fatal(item)
        bad, allowed = len(self.seen) - self.count()[TOO_LONG], allowance(self.train, self.rows)
        if bad > allowed:
            log = self.run.path / DROPPED_SAMPLES
            raise UserError(f"stage {self.name}, step {step}: {_over(bad, allowed, self.rows)}; see {log}")

    def _place(self, step: int) -> dict[str, Any]:
        return {"stage": self.number, "stage_name": self.name, "step": step}

    def _raise_if_fatal(self, item: DroppedSample) -> None:
        where = f"stage {self.name}: {item.message}"
        if item.reason == FATAL:
            raise UserError(where)
        if item.reason == TOO_LONG and self.train.on_too_long == "error":
            raise UserError(f"{where}; raise train.max_length or set on_too_long: drop")
        if item.reason != TOO_LONG and self.train.on_bad_sample == "error":
            raise UserError(f"{where}; drop such rows with train.on_bad_sample: skip")

    def count(self) -> Counter[str]:
        """Number of dropped rows by reason."""
        return Counter(self.seen.values())
