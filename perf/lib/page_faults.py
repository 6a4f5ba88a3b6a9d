"""Memory that one call takes: page faults, and the peak beyond its output."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import NamedTuple

from perf.lib.tables import Run
from torch import Tensor


class Memory(NamedTuple):
    """`beyond`: bytes of the peak above the memory before the call, less the output; None where Linux is missing."""

    faults: int
    beyond: int | None


def _status(name: str) -> int:
    """A size of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def memory_of(run: Run) -> Memory:
    """Of one call that returns its output."""
    peaks = Path("/proc/self/clear_refs")
    if not peaks.exists():
        before = _faults()
        run()
        return Memory(_faults() - before, None)
    peaks.write_text("5")  # the peak becomes the present size
    resident, before = _status("VmRSS"), _faults()
    output = run()
    faults, peak = _faults() - before, _status("VmHWM")
    return Memory(faults, peak - resident - (output.nbytes if isinstance(output, Tensor) else 0))
