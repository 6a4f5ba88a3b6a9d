"""SIGTERM, SIGUSR1 and Ctrl-C stop a run so that the same command resumes it; a second Ctrl-C ends it at once.

While a stage trains, a signal is only remembered: the processes agree before each step whether any of them got one,
save, and leave together. At any other time (imports, reading data, building, evaluating, writing the model) nothing can
be lost: the process leaves at once, and what was under way is done anew. During imports it leaves without raising
anything, which libraries would take for an error of theirs.

Imported before all else, so it imports nothing that takes time.
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


def left(name: str) -> Stopped:
    """The exception for a signal of this name while there is nothing to save."""
    return Stopped(f"stopped by {name}; rerun the same command to resume")


def _leave(name: str) -> NoReturn:
    code = exit_message.say(left(name).text, RESUMABLE)
    _kill_children()
    os._exit(code)


class _SignalState:
    """The signals that this process has got; signals belong to a process, so this is global."""

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
            exit_message.write("interrupted")
            _kill_children()
            os._exit(INTERRUPTED)
        if _SignalState.on_signal is not _leave:
            exit_message.write(
                "stopping; rerun the same command to resume. Ctrl-C again ends at once, without saving"
            )
    if not _SignalState.deferred:
        _SignalState.raised = True
        raise _SignalState.on_signal(_SignalState.received)


def _kill_children() -> None:
    """Kill all processes that this one has started."""
    if psutil := sys.modules.get("psutil"):  # see `meeting`
        with suppress(psutil.Error):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()


def install_handlers() -> Callable[[], None]:
    """Let `SIGNALS` stop this process from now on, called in the main thread; -> a function that ends that.

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
def meeting(made: Callable[[str], BaseException]) -> Iterator[None]:
    """Inside, a signal raises what `made` gives for its name. What is inside may start processes."""
    import_module("psutil")  # a signal handler must not
    before, _SignalState.on_signal = _SignalState.on_signal, made
    try:
        yield
    finally:
        _SignalState.on_signal = before


@contextmanager
def install() -> Iterator[None]:
    """Let `SIGNALS` stop what runs inside by raising `Stopped`; for the main thread."""
    uninstall = install_handlers()
    try:
        with unwinding():
            yield
    finally:
        uninstall()


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside, a signal raises `Stopped`, and so do libraries that took it for an error of theirs."""
    with meeting(left):
        try:
            yield
        except BaseException as error:
            if _SignalState.received and _SignalState.raised and not isinstance(error, Stopped):
                raise left(_SignalState.received) from error
            raise


@contextmanager
def defer() -> Iterator[None]:
    """Defer signals in this context; one that nobody has acted on ends the process at its end."""
    _SignalState.deferred = True
    try:
        yield
    finally:
        _SignalState.deferred = False
    if _SignalState.received:
        raise left(_SignalState.received)


def requested() -> bool:
    """Whether this process has got a signal; the processes agree on it by `step_control.exchange`."""
    return _SignalState.received is not None


def stopped(where: str) -> Stopped:
    """What to raise when the processes have agreed and saved."""
    return Stopped(
        f"{_SignalState.received or 'another process'} stopped the run {where}; rerun the same command to resume"
    )
