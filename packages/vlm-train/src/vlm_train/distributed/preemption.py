"""SIGTERM, SIGUSR1 and Ctrl-C stop a run so that the same command resumes it; a second Ctrl-C ends it at once.

While a stage trains, a signal is deferred: before each step the processes agree whether any of them got one, save a
checkpoint, and end together. At any other time (imports, reading data, building, evaluating, writing the model) nothing
can be lost: the process ends at once, and the next run repeats the work. During imports it ends without an exception,
which libraries would take for an error of their own. torchrun only forwards signals.

Imported before the handlers are installed, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import NoReturn

from vlm_train.distributed import exit_message
from vlm_train.distributed.exit_message import RESUMABLE

INTERRUPTED = 130
"""Exit code after a second Ctrl-C."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(SystemExit):
    """Ends the process with `RESUMABLE`; `text` is the message, with the step that was reached."""

    def __init__(self, text: str) -> None:
        super().__init__(RESUMABLE)
        self.text = text


def stopped_by(name: str) -> Stopped:
    """The exception for a signal of this name while there is nothing to save."""
    return Stopped(f"stopped by {name}; rerun the same command to resume")


def _leave(name: str) -> NoReturn:
    code = exit_message.report(stopped_by(name).text, RESUMABLE)
    _kill_children()
    os._exit(code)


class _SignalState:
    """The signals that this process has received; signals belong to a process, so this is global."""

    received: str | None = None
    deferred = False
    raised = False
    presses = 0
    counts_presses = True
    on_signal: Callable[[str], BaseException] = _leave


def _handler(number: int, frame: FrameType | None) -> None:
    _SignalState.received = signal.Signals(number).name
    if number == signal.SIGINT and _SignalState.counts_presses:
        _SignalState.presses += 1
        if _SignalState.presses > 1:
            exit_message.log_error("interrupted")
            _kill_children()
            os._exit(INTERRUPTED)
        if _SignalState.on_signal is not _leave:
            exit_message.log_error(
                "stopping; rerun the same command to resume. Ctrl-C again ends at once, without saving"
            )
    if not _SignalState.deferred:
        _SignalState.raised = True
        raise _SignalState.on_signal(_SignalState.received)


def _kill_children() -> None:
    """Kill all processes that this one has started."""
    if psutil := sys.modules.get("psutil"):  # see `raising`
        with suppress(psutil.Error):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()


def install_handlers() -> Callable[[], None]:
    """Let `SIGNALS` stop this process from now on; returns a function that restores the earlier handlers.

    A process that a launcher started doesn't count Ctrl-C: it may get the first one twice, from the terminal and from
    the launcher.
    """
    _SignalState.received, _SignalState.raised, _SignalState.presses = None, False, 0
    _SignalState.counts_presses = "LOCAL_RANK" not in os.environ
    before = {number: signal.signal(number, _handler) for number in SIGNALS}

    def uninstall() -> None:
        _SignalState.received = None
        for number, handler in before.items():
            signal.signal(number, handler)

    return uninstall


@contextmanager
def raising(exception: Callable[[str], BaseException]) -> Iterator[None]:
    """Inside, which may start processes, a signal raises `exception(name)`."""
    import_module("psutil")  # a signal handler must not import
    before, _SignalState.on_signal = _SignalState.on_signal, exception
    try:
        yield
    finally:
        _SignalState.on_signal = before


@contextmanager
def install() -> Iterator[None]:
    """Inside, in the main thread, `SIGNALS` raise `Stopped`."""
    uninstall = install_handlers()
    try:
        with unwinding():
            yield
    finally:
        uninstall()


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside, a signal raises `Stopped`, also where a library catches that and raises an error of its own."""
    with raising(stopped_by):
        try:
            yield
        except BaseException as error:
            if _SignalState.received and _SignalState.raised and not isinstance(error, Stopped):
                raise stopped_by(_SignalState.received) from error
            raise


@contextmanager
def defer() -> Iterator[None]:
    """Inside, signals are deferred; one that no step has acted on ends the process afterwards."""
    _SignalState.deferred = True
    try:
        yield
    finally:
        _SignalState.deferred = False
    if _SignalState.received:
        raise stopped_by(_SignalState.received)


def requested() -> bool:
    """Whether this process has got a signal; the processes agree on it by `step_control.exchange`."""
    return _SignalState.received is not None


def stopped(where: str) -> Stopped:
    """The exception for a stopped run whose processes have agreed and saved."""
    return Stopped(
        f"{_SignalState.received or 'another process'} stopped the run {where}; rerun the same command to resume"
    )
