"""The same engine in processes of its own, one for each device, each started again after a crash."""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from vlm_core.errors import UserError, one_line
from vlm_serve.engine.request import Event, Failed, GenerationRequest, ModelFacts
from vlm_serve.engine.ticket import CLOSING, FULL, Ticket
from vlm_serve.engine.worker_process import WorkerPlan, run_worker

log = logging.getLogger(__name__)
ENDED = Failed("crashed", "the process that answered this request ended; send it again")
RESTARTING = Failed("overloaded", "the model is being loaded again; try again later")
OUTDATED = Failed("crashed", "no process answers any more: the model's folder has changed; the log says more")
FIRST_WAIT, LONGEST_WAIT = 0.1, 60.0
"""Seconds before a worker that ended is started again; twice as long each time until one has become ready."""
READY_WAIT = 60.0
"""Seconds that a request waits for a worker that is being loaded."""


class Worker:
    """One worker process, the thread that starts and reads it, and the requests that it has."""

    def __init__(self, plan: WorkerPlan, name: str) -> None:
        self.plan, self.name = plan, name
        self.tickets: dict[int, Ticket] = {}
        self.facts: ModelFacts | None = None
        self.problem: UserError | None = None
        """Why the last process could not load the folder."""
        self.is_outdated = False
        """Whether the folder has another content than the first process served: no further process is started."""
        self.ready, self.decided = False, threading.Event()
        self.restarts, self.closing = 0, False
        self.process: Any = None
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

    def stats(self) -> dict[str, float]:
        """What the process counted, and those before it."""
        return _sum([self._totals, self._stats])

    def _run(self) -> None:
        """Start the process and read it until it ends, again and again; the first one must load the folder."""
        wait = FIRST_WAIT
        while not self.closing:
            served = self._serve()
            if self.closing or self.is_outdated or self.facts is None:
                return
            wait = FIRST_WAIT if served else min(LONGEST_WAIT, 2 * wait)
            self.restarts += 1
            why = f"exit code {self.process.exitcode}" if self.problem is None else one_line(self.problem)
            log.error("%s ended (%s); it is started again in %g s", self.name, why, wait)
            self.problem = None
            time.sleep(wait)

    def _serve(self) -> bool:
        """One process, from its start to its end -> whether it became ready."""
        context = multiprocessing.get_context("spawn")
        connection, other = context.Pipe()
        self.process = context.Process(
            target=run_worker, args=(other, self.plan, os.getpid()), name=self.name, daemon=True
        )
        self.process.start()
        other.close()
        outbox = self._outbox = SimpleQueue()
        sending = threading.Thread(target=_send_all, args=(outbox, connection), daemon=True)
        sending.start()
        served = False
        try:
            while True:
                self._receive(*connection.recv())
                served = served or self.ready
        except (EOFError, OSError):  # the process has ended
            pass
        except Exception:  # it ended in the midst of a message
            log.exception("%s sent what can't be read", self.name)
            self.process.kill()
        self._end(outbox)
        self.process.join()
        sending.join()
        connection.close()
        self.decided.set()
        return served

    def _receive(self, kind: str, *values: Any) -> None:
        if kind == "event":
            number, event = values
            ticket = self.tickets.get(number)
            if ticket is not None:
                ticket.send(event)
                if ticket.done:
                    self.tickets.pop(number, None)
        elif kind == "stats":
            (self._stats,) = values
        elif kind == "ready":
            self._loaded(*values)
        elif kind == "refused":
            self.problem = UserError(*values[0])

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
        self.facts, self.ready = facts, True
        self.decided.set()

    def _end(self, outbox: SimpleQueue[Any]) -> None:
        """After the process: its requests fail, and what it counted is kept."""
        with self._lock:
            self.ready, failed, self.tickets = False, self.tickets, {}
            outbox.put(None)
        for ticket in failed.values():
            ticket.send(CLOSING if self.closing else ENDED)
        totals = {name: value for name, value in self._stats.items() if name.endswith("_total")}
        self._totals, self._stats = _sum([self._totals, totals]), {}


def _sum(stats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in stats for name in one)
    return {name: sum(one.get(name, 0) for one in stats) for name in names}


def _send_all(outbox: SimpleQueue[Any], connection: Connection) -> None:
    """Images are larger than a pipe: the event loop must not wait for the process to read them."""
    with suppress(OSError):
        while (message := outbox.get()) is not None:
            connection.send(message)


class Workers:
    """`Engine` of a model folder in one process for each device. A request goes to the worker with the fewest.

    Waits until every process has loaded the model; raises `UserError` if one can't.
    """

    def __init__(self, plan: WorkerPlan, devices: Sequence[str] = ("cpu",)) -> None:
        _check_folder(plan)  # first: a folder that is no model is told of at once
        self.plan, self._numbers, self._closing = plan, itertools.count(), False
        self._tickets: set[Ticket] = set()
        self.workers = [
            Worker(replace(plan, device=device), f"worker {number} on {device}")
            for number, device in enumerate(devices)
        ]
        for worker in self.workers:
            worker.decided.wait()
        if problem := next((worker.problem for worker in self.workers if worker.problem), None):
            self._stop()
            raise problem
        if any(worker.facts is None for worker in self.workers):
            self._stop()
            raise UserError(f"{plan.folder}: a process that loads the model ended; its messages say why")

    def _stop(self) -> None:
        for worker in self.workers:
            worker.close(0)
            worker.process.kill()

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """As in `Engine`."""
        if self._closing:
            yield CLOSING
            return
        if len(self._tickets) >= len(self.workers) * (self.plan.settings.queue + self.plan.settings.slots):
            yield FULL
            return
        ticket, number = Ticket(request), next(self._numbers)
        self._tickets.add(ticket)
        try:
            worker = await self._least_loaded()
            if worker is None:
                yield OUTDATED if all(worker.is_outdated for worker in self.workers) else RESTARTING
                return
            ticket.on_cancel = partial(worker.cancel, number)
            worker.submit(number, ticket)
            async with aclosing(ticket.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._tickets.discard(ticket)

    async def _least_loaded(self) -> Worker | None:
        """The worker that has the fewest requests; None if none is ready for a long time, or will ever be."""
        end = time.monotonic() + READY_WAIT
        while time.monotonic() < end and not self._closing and any(w.thread.is_alive() for w in self.workers):
            if ready := [worker for worker in self.workers if worker.ready]:
                return min(ready, key=lambda worker: len(worker.tickets))
            await asyncio.sleep(0.02)
        return None

    def facts(self) -> ModelFacts:
        """As in `Engine`."""
        facts = self.workers[0].facts
        assert facts is not None, "every worker was ready"
        return facts

    def stats(self) -> Mapping[str, float]:
        """As in `Engine`: sums over the workers, up to half a second old."""
        return {
            **_sum([worker.stats() for worker in self.workers]),
            "workers": len(self.workers),
            "workers_ready": sum(worker.ready for worker in self.workers),
            "worker_restarts_total": sum(worker.restarts for worker in self.workers),
        }

    async def close(self, grace: float = 30.0) -> None:
        """As in `Engine`."""
        self._closing = True
        for worker in self.workers:
            worker.close(grace)
        ends = [asyncio.to_thread(worker.thread.join, grace + 5) for worker in self.workers]
        await asyncio.gather(*ends)
        for worker in self.workers:
            if worker.process.is_alive():
                worker.process.kill()


def _check_folder(plan: WorkerPlan) -> None:
    """Raise `UserError` for a folder that is no model, or has no valid spec; the worker verifies its files."""
    from vlm_core.io.manifest import require_model_folder
    from vlm_core.spec.spec import load_folder_spec

    require_model_folder(plan.folder)
    load_folder_spec(plan.folder, trust_remote_code=plan.trust_remote_code)
