"""SIGTERM and SIGUSR1 end a run where the same command goes on.

While a stage trains, a signal is only remembered: the processes agree after each step whether any of them heard one,
save, and leave together. At any other time (reading data, building, evaluating, writing the model) nothing can be lost:
the process leaves at once, and what was under way is done anew.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

CODE = 75
"""Exit code of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
LOADER_GRACE = 300
"""Seconds that a reading process works on after a signal that its whole process group got."""


class Stopped(SystemExit):
    """Ends the process with `CODE`; `text` says where it stood."""

    def __init__(self, text: str) -> None:
        super().__init__(CODE)
        self.text = text


class _Ears:
    """What this process has heard; signals belong to a process, so there is one."""

    heard: str | None = None
    holding = False


def _hear(number: int, frame: FrameType | None) -> None:
    _Ears.heard = signal.Signals(number).name
    if not _Ears.holding:
        raise Stopped(f"stopped by {_Ears.heard}; the same command goes on")


@contextmanager
def listening() -> Iterator[None]:
    """Let `SIGNALS` stop what runs inside; for the main thread."""
    _Ears.heard, before = None, {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        yield
    finally:
        _Ears.heard = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Only remember signals in here; one that nobody asked for with `agreed` ends the process on the way out."""
    _Ears.holding = True
    try:
        yield
    finally:
        _Ears.holding = False
    if _Ears.heard:
        raise Stopped(f"stopped by {_Ears.heard}; the same command goes on")


def agreed(accelerator: Accelerator) -> bool:
    """Whether any process has heard a signal: the same answer on all, which must all ask."""
    heard = _Ears.heard is not None
    if accelerator.num_processes == 1:
        return heard
    import torch

    told = accelerator.reduce(torch.tensor(int(heard), device=accelerator.device), "sum")
    return bool(int(told))  # pyright: ignore[reportArgumentType]


def stopped(where: str) -> Stopped:
    """What to raise when the processes have agreed and saved."""
    return Stopped(f"{_Ears.heard or 'another process'} stopped the run {where}; the same command goes on")


def in_loader(number: int) -> None:
    """For each reading process of a `DataLoader`: serve on until its run has stopped.

    Launchers and clusters signal whole process groups, and the run still needs the rows of its step. A reader ends with
    its run; the alarm is for one that doesn't.
    """
    for each in SIGNALS:
        signal.signal(each, lambda *_: signal.alarm(LOADER_GRACE))
