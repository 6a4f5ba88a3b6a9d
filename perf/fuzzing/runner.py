"""Runs examples in one process and holds each against the promise: a result or a `UserError`, soon, and nothing else.

A failure is any other exception, more than `SECONDS` of processor time, a process above `MEGABYTES` (or `MORE_MB` more
than libraries took before the first example), a program that was started, a connection, or a file that was written
outside the example's folder.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, NoReturn, Protocol

from fuzzing.guard import Guard
from vlm_core.errors import BadSample, UserError
from vlm_core.runtime.peak_rss import peak_rss

KINDS = ("specs", "rows", "folders", "archives")
SECONDS, HANG, MEGABYTES, MORE_MB = 2.0, 20.0, 1000.0, 400.0
ROOM_BYTES = 3 * 2**30
"""Address space that a process of its own gets besides what it begins with."""


class Kind(Protocol):
    """What each module's class `Examples` does; its constructor makes the valid inputs in `work`."""

    apart: bool
    """Whether each example gets a process of its own, for readers in C++ that may crash."""

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

    def add(self, number: int, result: Result) -> None:
        self.outcomes[result.outcome] += 1
        self.slowest = sorted([*self.slowest, Cost(result.seconds, number)], reverse=True)[:3]
        self.peak_mb = max(self.peak_mb, result.peak_mb)
        if result.reason:
            self.failures.append(Failure(number, result.reason))

    def as_data(self) -> dict[str, Any]:
        failures = [asdict(failure) for failure in self.failures]
        return {**vars(self), "outcomes": dict(self.outcomes), "failures": failures}


class Hang(BaseException):
    """Raised by the alarm: no `except Exception` of the code under test catches it."""


def _alarm(*_: object) -> None:
    raise Hang


def peak_mb() -> float:
    return peak_rss() / 2**20


def run(kind: str, seed: int, numbers: Sequence[int], keep: Path | None, *, debug: bool = False) -> Report:
    """All `numbers` of one kind; the same inputs for the same seed."""
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(1000)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        made: Kind = importlib.import_module(f"fuzzing.{kind}").Examples(work)
        signal.signal(signal.SIGALRM, _alarm)
        report, guard = Report(kind, seed, peak_mb()), Guard(work)
        limit = max(MEGABYTES, report.start_mb + MORE_MB)

        def one(number: int) -> Result:
            folder = work / f"example-{number}"
            folder.mkdir()
            result = _judge(guard, made.example(Random(f"{kind} {seed} {number}"), folder), limit, debug)
            if not result.reason:
                shutil.rmtree(folder, ignore_errors=True)
            return result

        results = _apart(one, numbers) if made.apart else ((number, one(number)) for number in numbers)
        for number, result in results:
            report.add(number, result)
            if result.reason:
                _keep(work / f"example-{number}", keep, f"{kind}-{seed}-{number}")
    return report


class Result(NamedTuple):
    """How one example went; `reason` says what is wrong with that, if anything."""

    outcome: str
    reason: str
    seconds: float
    peak_mb: float


def _judge(guard: Guard, read: Callable[[], str], limit_mb: float, debug: bool) -> Result:
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
    seconds, peak = time.process_time() - began, peak_mb()
    if not reason and seconds > SECONDS:
        reason = f"{seconds:.1f} s of processor time"
    if not reason and peak > max(before, limit_mb):
        reason = f"memory went from {before:.0f} to {peak:.0f} MB"
    return Result(outcome, reason or "; ".join(guard.violations), seconds, peak)


def _apart(one: Callable[[int], Result], numbers: Sequence[int]) -> Iterator[tuple[int, Result]]:
    """The same in a process of its own, which may crash or fill its memory; another one then goes on."""
    left = list(numbers)
    while left:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(one, left, write)
        os.close(write)
        while left and (line := _line(read)):
            yield left.pop(0), Result(*json.loads(line))
        os.close(read)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if left:
            how = "it hangs" if status & 127 == signal.SIGKILL else f"signal {status & 127}"
            yield left.pop(0), Result("failed: process died", f"the process died: {how}", 0.0, 0.0)


def _child(one: Callable[[int], Result], numbers: Sequence[int], write: int) -> NoReturn:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + ROOM_BYTES, hard))
    try:
        for number in numbers:
            result = one(number)
            os.write(write, json.dumps(result).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _line(pipe: int) -> bytes:
    """The next line, or nothing if the writer died, or is silent for too long."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], HANG + 10)
        piece = os.read(pipe, 1) if ready else b""
        if not piece:
            return b""
        line += piece
    return line


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _keep(folder: Path, keep: Path | None, name: str) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        with suppress(
            OSError, shutil.Error
        ):  # a FIFO or a link to nowhere can't be copied; its number repeats it
            shutil.copytree(folder, keep / name, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
