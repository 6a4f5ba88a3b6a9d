"""The process of one worker: a `LocalEngine`, and messages to and from the process that started it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextlib import aclosing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError, one_line
from vlm_core.runtime.parent_death import end_with_parent
from vlm_serve.engine.batching.answer import CRASHED
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.memory import compact_allocator
from vlm_serve.engine.request import Event, GenerationRequest
from vlm_serve.engine.settings import EngineSettings

log = logging.getLogger(__name__)
STATS_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker loads, and where; `threads` are those of torch, None: its default."""

    folder: Path
    settings: EngineSettings
    device: str = "cpu"
    dtype: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None


def load_engine(plan: WorkerPlan) -> LocalEngine:
    """Raises `UserError` as `LocalEngine.load`, and for a GPU without room."""
    import torch

    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    dtype = None if plan.dtype is None else getattr(torch, plan.dtype)
    try:
        return LocalEngine.load(
            plan.folder,
            plan.settings,
            dtype=dtype,
            device=plan.device,
            trust_remote_code=plan.trust_remote_code,
        )
    except torch.OutOfMemoryError as error:
        text = f"{plan.device} has no room for the model and its slots: {one_line(error)}"
        raise UserError(f"{text}; a smaller --dtype or fewer --slots need less") from None


def load_worker(connection: Connection, plan: WorkerPlan, parent: int) -> LocalEngine | None:
    """The engine; None for a folder that can't be served, of which the parent is told. Raises `OSError`.

    The process ignores the signals that end its parent, which closes it; it ends with its parent.
    """
    end_with_parent(parent)
    compact_allocator()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        return load_engine(plan)
    except UserError as error:
        connection.send(("refused", error.lines))
        return None


def serve(connection: Connection, engine: LocalEngine) -> None:
    """Serve until told to close.

    Received: ("submit", number, request), ("cancel", number), ("close", grace). Sent: ("ready", facts),
    ("events", [(number, event), …]), ("stats", stats, steps), ("closed",).
    """
    connection.send(("ready", engine.facts()))
    asyncio.run(_Worker(connection, engine).serve())
    os._exit(0)  # a thread still reads the connection


class _Worker:
    """Messages of one engine; everything but `_receive` runs in the event loop."""

    def __init__(self, connection: Connection, engine: LocalEngine) -> None:
        self.connection, self.engine = connection, engine
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.closed = asyncio.Event()
        self._events: list[tuple[int, Event]] = []

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._receive, args=(loop,), name="receive", daemon=True).start()
        stats = asyncio.create_task(self._send_stats())
        await self.closed.wait()
        stats.cancel()
        self._send("closed")

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                kind, *values = self.connection.recv()
                loop.call_soon_threadsafe(getattr(self, f"_{kind}"), *values)
        except (EOFError, OSError):  # the parent has ended, and this process ends with it
            pass
        except Exception:  # such as no memory: the requests that follow would wait for ever
            log.exception("a message can't be read; this process ends")
            os._exit(1)

    def _send_event(self, number: int, event: Event) -> None:
        """With the others of this turn of the loop: those of a step are one message."""
        if not self._events:
            asyncio.get_running_loop().call_soon(self._send_events)
        self._events.append((number, event))

    def _send_events(self) -> None:
        events, self._events = self._events, []
        if events:
            self._send("events", events)

    def _send(self, *message: Any) -> None:
        self._send_events()  # in order
        try:
            self.connection.send(message)
        except OSError:  # the parent has ended, and this process ends with it
            log.warning("the server's process can't be reached")

    def _submit(self, number: int, request: GenerationRequest) -> None:
        self.tasks[number] = asyncio.create_task(self._answer(number, request))

    async def _answer(self, number: int, request: GenerationRequest) -> None:
        try:
            async with aclosing(self.engine.submit(request)) as events:
                async for event in events:
                    self._send_event(number, event)
        except Exception:
            log.exception("request %s failed", request.id)
            self._send_event(number, CRASHED)
        finally:
            self.tasks.pop(number, None)

    def _cancel(self, number: int) -> None:
        if number in self.tasks:
            self.tasks[number].cancel()

    def _close(self, grace: float) -> None:
        self.closing = asyncio.create_task(self._end(grace))

    async def _end(self, grace: float) -> None:
        await self.engine.close(grace)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.closed.set()

    async def _send_stats(self) -> None:
        while True:
            self._send("stats", dict(self.engine.stats()), self.engine.steps())
            if self.engine.lost:
                await asyncio.sleep(STATS_SECONDS)  # the requests that failed are told so
                log.error("this process ends, so that another one can use the GPU")
                os._exit(1)
            await asyncio.sleep(STATS_SECONDS)
