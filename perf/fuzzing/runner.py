"""Runs examples in one process and holds each against the promise: a result or a `UserError`, soon, and nothing else.

A failure is any other exception, more than `SECONDS` of processor time, a process above `MEGABYTES` (or `MORE_MB` more
than libraries took before the first example), a program that was started, a connection, or a file that was written
outside the example's folder.
"""

from __future__ import annotations

import importlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

from fuzzing.guard import Guard
from vlm_core.errors import BadSample, UserError

KINDS = ("specs", "rows", "folders", "archives")
SECONDS, HANG, MEGABYTES, MORE_MB = 2.0, 20.0, 1000.0, 400.0


class Kind(Protocol):
    """What each module's class `Examples` does; its constructor makes the valid inputs in `work`."""

    def __init__(self, work: Path) -> None: ...

    def example(self, rng: Random, folder: Path) -> Callable[[], str]:
        """Write one input into `folder`; what is returned reads it, and gives a word for how it went."""
        ...


class Cost(NamedTuple):
    """Processor time of one example."""

    seconds: float
    number: int


@dataclass(frozen=True)
class Failure:
    """An example that broke the promise."""

    number: int
    reason: str


@dataclass
class Report:
    """What came of all examples."""

    kind: str
    seed: int
    start_mb: float
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slowest: list[Cost] = field(default_factory=list)
    peak_mb: float = 0.0

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


class Hang(BaseException):
    """Raised by the alarm: no `except Exception` of the code under test catches it."""


def _alarm(*_: object) -> None:
    raise Hang


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(kind: str, seed: int, numbers: Iterable[int], keep: Path | None, *, debug: bool = False) -> Report:
    """All `numbers` of one kind; the same inputs for the same seed."""
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(1000)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        made: Kind = importlib.import_module(f"fuzzing.{kind}").Examples(work)
        signal.signal(signal.SIGALRM, _alarm)
        report = Report(kind, seed, peak_mb())
        guard = Guard(work)
        for number in numbers:
            folder = work / "example"
            folder.mkdir()
            try:
                read = made.example(Random(f"{kind} {seed} {number}"), folder)
                reason = _judge(report, guard, read, number, debug)
                if reason:
                    report.failures.append(Failure(number, reason))
                    _keep(folder, keep, f"{kind}-{seed}-{number}")
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    report.peak_mb = peak_mb()
    return report


def _judge(report: Report, guard: Guard, read: Callable[[], str], number: int, debug: bool) -> str:
    """Run one example, count its outcome -> why it failed, or nothing."""
    before, began = peak_mb(), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANG)
    reason = ""
    try:
        with guard:
            outcome = read()
    except BadSample as error:
        outcome = f"refused: {error.reason}"
    except UserError:
        outcome = "refused"
    except Hang:
        outcome, reason = "failed: hangs", f"still running after {HANG} s"
    except BaseException as error:
        if debug:
            traceback.print_exc()
        at = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"failed: {type(error).__name__}"
        reason = f"{type(error).__name__}: {str(error)[:200]!a} ({Path(at.filename).name}:{at.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - began
    report.outcomes[outcome] += 1
    report.slowest = sorted([*report.slowest, Cost(seconds, number)], reverse=True)[:3]
    if not reason and seconds > SECONDS:
        reason = f"{seconds:.1f} s of processor time"
    if not reason and peak_mb() > max(before, MEGABYTES, report.start_mb + MORE_MB):
        reason = f"memory went from {before:.0f} to {peak_mb():.0f} MB"
    return reason or "; ".join(guard.violations)


def _keep(folder: Path, keep: Path | None, name: str) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        with suppress(
            OSError, shutil.Error
        ):  # a FIFO or a link to nowhere can't be copied; its number repeats it
            shutil.copytree(folder, keep / name, symlinks=True, dirs_exist_ok=True)
