"""The processes of a `DataLoader`: they end with the run, and one that is killed is named."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vlm_core.runtime.parent_death import end_with_parent
from vlm_core.runtime.system_faults import SystemFault, killed
from vlm_train.distributed import process_group

LOADER_GRACE = 300
"""Seconds that a reading process works on after a signal that its whole process group got."""
_TOLD_BY_TORCH = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ")
_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
T = TypeVar("T")


def start_worker(number: int) -> None:
    """`worker_init_fn` of every `DataLoader`: the process ends with the one that it reads for."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)


def start_training_worker(number: int) -> None:
    """`worker_init_fn` where a run can be stopped and resumed: serve on until the run has stopped.

    Launchers and clusters signal whole process groups, and the run still needs the rows of its step. A reader ends with
    its run; the alarm is for one that doesn't.
    """
    start_worker(number)
    for each in _STOP:
        signal.signal(each, lambda *_: signal.alarm(LOADER_GRACE))


def read(loader: Iterable[T]) -> Iterator[T]:
    """What a `DataLoader` gives; raises `SystemFault` if the system has killed one of its processes."""
    before = multiprocessing.active_children()
    batches = iter(loader)
    readers = [child for child in multiprocessing.active_children() if child not in before]
    try:
        yield from batches
    except (OSError, EOFError, RuntimeError) as error:  # whatever a queue says whose other end is gone
        for reader in readers:
            reader.join(0.5)
            if reader.exitcode is not None and reader.exitcode < 0:
                raise _killed(reader.pid, -reader.exitcode) from error
        raise


@contextmanager
def naming_killed_readers() -> Iterator[None]:
    """Torch raises the death of a reading process wherever its run stands: name it if that was outside of `read`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SystemFault) or not (told := _TOLD_BY_TORCH.match(str(error))):
            raise
        raise _killed(int(told[1]), _number(str(error)[told.end() :])) from error


def _killed(pid: int | None, number: int) -> SystemFault:
    here = process_group.place()
    of = f" of rank {here.rank}" if here else ""
    return killed(
        f"a data-reading process{of} (pid {pid})",
        number,
        "use fewer of them (train.num_workers) or smaller images",
    )


def _number(text: str) -> int:
    """The signal that `strsignal` describes so."""
    described = {signal.strsignal(number): number for number in signal.valid_signals()}
    words = text.split(". ")[0].strip().rstrip(".")
    return next((int(number) for name, number in described.items() if name == words), signal.SIGKILL)
