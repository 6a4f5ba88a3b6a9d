"""One worker: the process that computes, and the threads of this process that start, read and watch it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from vlm_core.errors import UserError, one_line
from vlm_serve.engine.request import Event, Failed, ModelFacts
from vlm_serve.engine.ticket import CLOSING, Ticket
from vlm_serve.engine.watchdog import Watchdog
from vlm_serve.engine.worker_process import WorkerPlan
from vlm_serve.engine.worker_start import start_worker

log = logging.getLogger(__name__)
ENDED = Failed("crashed", "the process that answered this request ended; send it again")
HUNG = Failed("crashed", "the process that answered this request made no progress, and was ended")
FIRST_WAIT, LONGEST_WAIT = 0.1, 60.0
"""Seconds before a worker that ended is started again; twice as long each time until one has become ready."""
TIMEOUT = 300.0
"""Seconds without progress after which a process is taken to hang."""
LOADING_TIMES = 4
"""A model may take so many times as long to be loaded."""
POLL_SECONDS = 0.5
KILL_WAIT = 10.0
"""Seconds that a killed process has to end; a driver may hold it for ever."""
FAILED_STARTS, FAILING_SECONDS = 3, 300.0
"""So many starts in a row, and so long, must have failed before a worker is taken for one that can't be started."""


class Worker:
    """One worker process, the thread that starts and reads it, and the requests that it has."""

    def __init__(self, plan: WorkerPlan, name: str, timeout: float = TIMEOUT) -> None:
        """Without progress for `timeout` seconds the process is killed; 0: never."""
        self.plan, self.name, self.timeout = plan, name, timeout
        self.tickets: dict[int, Ticket] = {}
        self.facts: ModelFacts | None = None
        self.problem: UserError | None = None
        """Why the last process could not load the folder."""
        self.is_outdated = False
        """Whether the folder has another content than the first process served: no further process is started."""
        self.why = ""
        """Why the last process ended."""
        self.failed_starts, self.failing_seconds, self._ended_at = 0, 0.0, 0.0
        """Starts in a row that failed, and from the end of the last process that was ready to the last of them."""
        self.ready, self.decided = False, threading.Event()
        self.restarts, self.hangs, self.closing = 0, 0, False
        self.process: Any = None
        self._watchdog, self._failure = Watchdog(), ENDED
        self._stats: Mapping[str, float] = {}
        self._totals: Mapping[str, float] = {}  # of the processes that ended
        self._lock, self._outbox = threading.Lock(), SimpleQueue[Any]()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def submit(self, number: int, ticket: Ticket) -> None:
        with self._lock:
            if not self.ready:
                ticket.send(ENDED)
                return
            self.tickets[number] = ticket
            self._outbox.put(("submit", number, ticket.request))

    def cancel(self, number: int) -> None:
        with self._lock:
            if self.tickets.pop(number, None) is not None:
                self._outbox.put(("cancel", number))

    def close(self, grace: float) -> None:
        """Let the process finish what it has within `grace` seconds."""
        with self._lock:
            self.closing = True
            self._outbox.put(("close", grace))

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()

    def stats(self) -> dict[str, float]:
        """What the process counted, and those before it."""
        return sum_of([self._totals, self._stats])

    @property
    def stalled(self) -> float:
        """Seconds in which the process has made no progress."""
        return self._watchdog.stalled

    @property
    def is_unrecoverable(self) -> bool:
        """Whether no further process is started, or starts have failed for so long that nobody should wait for one."""
        failing = self.failed_starts >= FAILED_STARTS and self.failing_seconds >= FAILING_SECONDS
        return not self.ready and (self.is_outdated or failing)

    def _run(self) -> None:
        """Start the process and read it until it ends, again and again; the first one must load the folder."""
        wait = FIRST_WAIT
        while not self.closing:
            served = self._tried()
            if self.closing or self.is_outdated or self.facts is None:
                return
            if served:
                wait, self._ended_at = FIRST_WAIT, time.monotonic()
            else:
                wait, self.failing_seconds = min(LONGEST_WAIT, 2 * wait), time.monotonic() - self._ended_at
                self.failed_starts += 1
            self.restarts += 1
            log.error("%s ended (%s); it is started again in %g s", self.name, self.why, wait)
            self.problem = None
            time.sleep(wait)

    def _tried(self) -> bool:
        """As `_serve`; what this process lacks, such as memory, files or threads, is a start that failed."""
        try:
            served = self._serve()
        except Exception as error:
            self.kill()
            self._end(self._outbox)
            self.why = f"no process can be started: {one_line(error)}"
            self.decided.set()
            return False
        if self.problem is not None:
            self.why = one_line(self.problem)
        elif self.process is not None:
            self.why = f"exit code {self.process.exitcode}"
        return served

    def _serve(self) -> bool:
        """One process, from its start to its end -> whether it became ready."""
        context = multiprocessing.get_context("spawn")
        outbox, ended = SimpleQueue[Any](), threading.Event()
        outbox.put(self.plan)
        with self._lock:  # `close` must find the process that it ends
            if self.closing:
                return False
            connection, other = context.Pipe()
            arguments = other, os.getpid()
            self.process = context.Process(target=start_worker, args=arguments, name=self.name, daemon=True)
            self.process.start()
            self._outbox, self._watchdog, self._failure = outbox, Watchdog(), ENDED
        other.close()
        helpers = [
            threading.Thread(target=_send_all, args=(outbox, connection, self.process), daemon=True),
            threading.Thread(target=self._watch, args=(connection, ended), daemon=True),
        ]
        for helper in helpers:
            helper.start()
        served = False
        try:
            while True:
                self._receive(*connection.recv())
                served = served or self.ready
        except (EOFError, OSError):  # the process has ended, or `_watch` has given it up
            pass
        except Exception:  # it ended in the midst of a message
            log.exception("%s sent what can't be read", self.name)
            self.process.kill()
        ended.set()
        self._end(outbox)
        self.process.join(KILL_WAIT)
        if self.process.is_alive():
            log.error("%s: process %d can't be killed, and is left", self.name, self.process.pid)
        for helper in helpers:
            helper.join()
        connection.close()
        self.decided.set()
        return served

    def _watch(self, connection: Connection, ended: threading.Event) -> None:
        """Kill the process if it makes no progress; its requests fail even if it can't be killed."""
        while not ended.wait(POLL_SECONDS):
            self._watchdog.elapse(POLL_SECONDS)
            limit = self.timeout * (1 if self.ready else LOADING_TIMES)
            if limit and self.stalled > limit:
                state = "made no progress for" if self.ready else "has not loaded the model within"
                log.error("%s %s %g s: it is killed", self.name, state, limit)
                self.hangs, self._failure = self.hangs + 1, HUNG
                self.process.kill()
                with socket.socket(fileno=os.dup(connection.fileno())) as pipe, suppress(OSError):
                    pipe.shutdown(socket.SHUT_RDWR)
                return

    def _receive(self, kind: str, *values: Any) -> None:
        self._watchdog.report(values[1] if kind == "stats" else ())
        if kind == "events":
            self._deliver(values[0])
        elif kind == "stats":
            self._stats = values[0]
        elif kind == "ready":
            self._loaded(*values)
        elif kind == "refused":
            self.problem = UserError(*values[0])

    def _deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        """Events of requests, by number; their event loop is woken once."""
        tickets = []
        for number, event in events:
            if (ticket := self.tickets.get(number)) is not None:
                ticket.hold(event)
                tickets.append(ticket)
                if ticket.done:
                    self.tickets.pop(number, None)
        for ticket in tickets:
            ticket.flush()

    def _loaded(self, facts: ModelFacts) -> None:
        """The process can answer, unless the folder has other content than the process before it served."""
        if self.facts is not None and facts.digest != self.facts.digest:
            log.error(
                "%s has changed since the server was started: %s stays ended; start vlm-serve again",
                self.plan.folder,
                self.name,
            )
            self.is_outdated = True
            self.process.kill()
            return
        self.facts, self.ready, self.failed_starts = facts, True, 0
        self.decided.set()

    def _end(self, outbox: SimpleQueue[Any]) -> None:
        """After the process: its requests fail, and what it counted is kept."""
        with self._lock:
            self.ready, failed, self.tickets = False, self.tickets, {}
            outbox.put(None)
        for ticket in failed.values():
            ticket.send(CLOSING if self.closing else self._failure)
        totals = {name: value for name, value in self._stats.items() if name.endswith("_total")}
        self._totals, self._stats = sum_of([self._totals, totals]), {}


def sum_of(stats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by name."""
    names = dict.fromkeys(name for one in stats for name in one)
    return {name: sum(one.get(name, 0) for one in stats) for name in names}


def _send_all(outbox: SimpleQueue[Any], connection: Connection, process: Any) -> None:
    """Images are larger than a pipe: the event loop must not wait for the process to read them."""
    try:
        while (message := outbox.get()) is not None:
            connection.send(message)
    except OSError:  # the process has ended
        pass
    except Exception:  # such as no memory: the requests that follow would wait for ever
        log.exception("a message can't be sent to a worker, which is killed")
        process.kill()
