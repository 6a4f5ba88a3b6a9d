"""The same engine in processes of its own, one for each device, each started again after a crash."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from vlm_core.errors import UserError
from vlm_serve.engine.request import Event, Failed, GenerationRequest, ModelFacts
from vlm_serve.engine.ticket import CLOSING, FULL, Outbox, Ticket, is_full
from vlm_serve.engine.worker import LOADING_TIMES, TIMEOUT, Worker, sum_of
from vlm_serve.engine.worker_process import WorkerPlan

RESTARTING = Failed("overloaded", "the model is being loaded again; try again later")
NONE_LEFT = Failed("crashed", "no process answers any more; the log of the server says why")
READY_WAIT = 60.0
"""Seconds that a request waits for a worker that is being loaded."""
LATE = 5.0
"""Seconds without progress after which a worker gets no request that another one can have."""


class Workers:
    """`Engine` of a model folder in one process for each device. A request goes to the worker with the fewest.

    Waits until every process has loaded the model; raises `UserError` if one can't. A process that makes no progress
    for `timeout` seconds is killed and started again; 0: never.
    """

    def __init__(
        self, plan: WorkerPlan, devices: Sequence[str] = ("cpu",), *, timeout: float = TIMEOUT
    ) -> None:
        _check_folder(plan)  # first: a folder that is no model is told of at once
        self.plan, self._numbers, self._closing = plan, itertools.count(), False
        self._tickets: set[Ticket] = set()
        self._outbox: Outbox | None = None
        self.workers = [
            Worker(replace(plan, device=device), f"worker {number} on {device}", timeout)
            for number, device in enumerate(devices)
        ]
        for worker in self.workers:
            worker.decided.wait()
        if problem := next((worker.problem for worker in self.workers if worker.problem), None):
            self._stop()
            raise problem
        if any(worker.facts is None for worker in self.workers):
            self._stop()
            if any(worker.hangs for worker in self.workers):
                limit = f"{LOADING_TIMES * timeout:g} s"
                raise UserError(
                    f"{plan.folder}: not loaded within {limit}; a longer worker timeout allows more"
                )
            why = next(worker.why for worker in self.workers if worker.facts is None)
            raise UserError(
                f"{plan.folder}: a process that loads the model ended ({why}); its messages say why"
            )

    def _stop(self) -> None:
        for worker in self.workers:
            worker.close(0)
            worker.kill()

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """As in `Engine`."""
        if self._closing:
            yield CLOSING
            return
        limit = len(self.workers) * (self.plan.settings.queue + self.plan.settings.slots)
        if is_full(len(self._tickets), limit, request.owner, self._tickets):
            yield FULL
            return
        self._outbox = Outbox.here(self._outbox)
        ticket, number = Ticket(request, self._outbox), next(self._numbers)
        self._tickets.add(ticket)
        try:
            worker = await self._least_loaded()
            if worker is None:
                yield RESTARTING if self.failure() is None else NONE_LEFT
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
                return min(ready, key=lambda worker: (worker.stalled > LATE, len(worker.tickets)))
            await asyncio.sleep(0.02)
        return None

    def failure(self) -> UserError | None:
        """Why no worker answers any more, once that is so for good: the server should end."""
        if self._closing or not all(worker.is_unrecoverable for worker in self.workers):
            return None
        folder, failing = self.plan.folder, [worker for worker in self.workers if not worker.is_outdated]
        if not failing:
            return UserError(
                f"{folder}: its content has changed since the server was started, and no worker with the old one lives",
                "start vlm-serve again to serve the new content; --reload loads changes while it serves",
            )
        last = failing[-1]
        return UserError(
            f"{folder}: no worker could be started again: {last.failed_starts} starts in a row failed, "
            f"in {last.failing_seconds:.0f} s; the last one: {last.why}",
            "remove the cause, then start vlm-serve again; the lines before this one have each start",
        )

    def facts(self) -> ModelFacts:
        """As in `Engine`."""
        facts = self.workers[0].facts
        assert facts is not None, "every worker was ready"
        return facts

    def stats(self) -> Mapping[str, float]:
        """As in `Engine`: sums over the workers, up to half a second old."""
        return {
            **sum_of([worker.stats() for worker in self.workers]),
            "workers": len(self.workers),
            "workers_ready": sum(worker.ready for worker in self.workers),
            "worker_restarts_total": sum(worker.restarts for worker in self.workers),
            "worker_hangs_total": sum(worker.hangs for worker in self.workers),
            "worker_stalled_seconds": max(worker.stalled for worker in self.workers),
        }

    async def close(self, grace: float = 30.0) -> None:
        """As in `Engine`."""
        self._closing = True
        for worker in self.workers:
            worker.close(grace)
        ends = [asyncio.to_thread(worker.thread.join, grace + 5) for worker in self.workers]
        await asyncio.gather(*ends)
        for worker in self.workers:
            worker.kill()


def _check_folder(plan: WorkerPlan) -> None:
    """Raise `UserError` for a folder that is no model, or has no valid spec; the worker verifies its files."""
    from vlm_core.io.manifest import require_model_folder
    from vlm_core.spec.spec import load_folder_spec

    require_model_folder(plan.folder)
    load_folder_spec(plan.folder, trust_remote_code=plan.trust_remote_code)
