"""Faults of the system, not of the user's files nor of this code: out of memory, killed processes."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

OUT_OF_MEMORY = 71
"""Exit code after a failed allocation: EX_OSERR of sysexits.h."""
_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"
_CUDA = ("CUDA error: out of memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NO_LIMIT = 2**60
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_ADVICE = {
    "memory": "use fewer workers, a smaller batch (micro_batch_size in training), or a smaller model",
    "CUDA memory": "use a smaller batch (micro_batch_size in training), activation_checkpointing: true, a shorter "
    "max_length, or share the model out with train.strategy",
}


class SystemFault(RuntimeError):
    """A fault of the system; CLIs print it without a traceback and exit with `code`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def system_fault(error: BaseException) -> SystemFault | None:
    """The fault of the system in the chain of causes of `error`, or None."""
    for each in _chain(error):
        if isinstance(each, SystemFault):
            return each
        if getattr(type(each), "user_error", False):  # of a library without vlm-core, such as vlm-ssm
            return SystemFault(str(each), 2)
        if kind := _exhausted(each):
            lines = str(each).strip().splitlines() or [type(each).__name__]
            seen = next((line for line in lines if _CPU_ALLOCATOR in line), lines[0])
            return SystemFault(
                f"out of {kind}: {seen.strip():.300}\n{_ADVICE[kind]}{memory_limit()}", OUT_OF_MEMORY
            )
    return None


def killed(what: str, number: int, advice: str) -> SystemFault:
    """The fault of a process that signal `number` ended; the kernel sends SIGKILL if memory runs out."""
    why = f"; out of memory? {advice}{memory_limit()}" if number == signal.SIGKILL else ""
    if number == signal.SIGBUS:
        why = f"; is shared memory (/dev/shm) full? {advice}"
    return SystemFault(f"{what} was killed by {signal_name(number)}{why}", 128 + number)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 99` for a number without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def memory_limit() -> str:
    """`; this machine has 64.0 GB, and the control group of this process may use 8.0 GB`, as far as known."""
    limits = [f"this machine has {_gigabytes(total)}"] if (total := _machine_memory()) else []
    if (limit := _control_group()) and (not total or limit < total):
        limits.append(f"the control group of this process may use {_gigabytes(limit)}")
    if limit := _ulimit():
        limits.append(f"ulimit -v allows {_gigabytes(limit)}")
    return f"; {', and '.join(limits)}" if limits else ""


def memory_ceiling() -> int | None:
    """Bytes that this process's control group and its `ulimit -v` allow, as far as they limit it."""
    return min((limit for limit in (_control_group(), _ulimit()) if limit), default=None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[int] = []
    while error is not None and id(error) not in seen:
        seen.append(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _exhausted(error: BaseException) -> str | None:
    """The kind of memory that is exhausted, or None; torch raises a plain `RuntimeError` for the CPU's."""
    torch = sys.modules.get("torch")
    text = str(error) if isinstance(error, RuntimeError) else ""
    if (torch and isinstance(error, torch.OutOfMemoryError)) or any(words in text for words in _CUDA):
        return "CUDA memory"
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return "memory" if isinstance(error, MemoryError) or no_memory or _CPU_ALLOCATOR in text else None


def _machine_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group() -> int | None:
    """The smallest limit of this process's control group and its parents."""
    try:
        lines = _CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _CGROUPS / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        place = root / path.lstrip("/")
        limits += [
            _number(folder / name) for folder in (place, *place.parents) if root in (folder, *folder.parents)
        ]
    return min((limit for limit in limits if limit), default=None)


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _ulimit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft in (resource.RLIM_INFINITY, -1) or soft > _NO_LIMIT else soft


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
