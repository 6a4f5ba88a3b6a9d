"""Worker processes of a `DataLoader`: they end with the run, and an error names a worker that was killed."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from vlm_core.runtime.parent_death import end_with_parent
from vlm_core.runtime.system_faults import SystemFault, killed
from vlm_core.units import size
from vlm_train.distributed import process_group

LOADER_GRACE = 300
"""Seconds that a worker continues after a stop signal to its process group."""
_TORCH_MESSAGE = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ")
MOST = 8
"""Workers of a process with `num_workers: auto`: one decodes and resizes 100 to 200 images a second."""
BATCHES = 3
"""Batches of a worker in shared memory: two that torch prefetches, and the one that it fills."""
SHARED_MEMORY = Path("/dev/shm")
_STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
T = TypeVar("T")


class WorkerCount(NamedTuple):
    """How many workers a loader has, and why."""

    number: int
    reason: str


def worker_count(num_workers: int | Literal["auto"], device: str, batch_bytes: int) -> WorkerCount:
    """The number in the spec, or that of `auto` for training on `device` with batches of `batch_bytes`.

    On a CPU the model computes on all cores, so that `auto` is 0. On a GPU it is the process's share of the cores, at
    most `MOST`, and at most as many as have room for their batches in half of the free shared memory: with too little
    of it, as in containers, workers are killed. Order and content of batches don't depend on it.
    """
    if num_workers != "auto":
        return WorkerCount(num_workers, "train.num_workers")
    if device == "cpu":
        return WorkerCount(0, "the model computes on all CPU cores")
    here = process_group.place()
    processes = here.local_world if here else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = min(MOST, max(1, cores // processes))
    if not SHARED_MEMORY.is_dir():
        return WorkerCount(number, f"{cores} CPU cores")
    free = shutil.disk_usage(SHARED_MEMORY).free // processes
    room = free // (2 * BATCHES * max(1, batch_bytes))
    if room < number:
        return WorkerCount(room, f"{SHARED_MEMORY} has {size(free)} free for batches of {size(batch_bytes)}")
    return WorkerCount(number, f"{cores} CPU cores")


def start_worker(number: int) -> None:
    """`worker_init_fn` of every `DataLoader`: the worker ends with its parent process."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)


def start_training_worker(number: int) -> None:
    """`worker_init_fn` for training: the worker continues after a stop signal until the run has stopped.

    Launchers and clusters signal whole process groups, and the run still needs the rows of its current step. The alarm
    ends a worker whose run does not stop.
    """
    start_worker(number)
    for each in _STOP:
        signal.signal(each, lambda *_: signal.alarm(LOADER_GRACE))


def read(loader: Iterable[T]) -> Iterator[T]:
    """Yield the batches of a `DataLoader`; raises `SystemFault` if the system has killed one of its workers."""
    before = multiprocessing.active_children()
    batches = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in before]
    try:
        yield from batches
    except (OSError, EOFError, RuntimeError) as error:  # any error of a queue whose other end is gone
        for worker in workers:
            worker.join(0.5)
            if worker.exitcode is not None and worker.exitcode < 0:
                raise _killed(worker.pid, -worker.exitcode) from error
        raise


@contextmanager
def naming_killed_workers() -> Iterator[None]:
    """Raise `SystemFault` for a killed worker also outside of `read`: torch's signal handler raises anywhere."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SystemFault) or not (match := _TORCH_MESSAGE.match(str(error))):
            raise
        raise _killed(int(match[1]), _signal_number(str(error)[match.end() :])) from error


def _killed(pid: int | None, number: int) -> SystemFault:
    place = process_group.place()
    of_rank = f" of rank {place.rank}" if place else ""
    return killed(
        f"a data-reading process{of_rank} (pid {pid})",
        number,
        "use fewer of them (train.num_workers) or smaller images",
    )


def _signal_number(text: str) -> int:
    """The signal whose `strsignal` description begins `text`; SIGKILL if none does."""
    by_description = {signal.strsignal(number): number for number in signal.valid_signals()}
    description = text.split(". ")[0].strip().rstrip(".")
    return int(by_description.get(description, signal.SIGKILL))
