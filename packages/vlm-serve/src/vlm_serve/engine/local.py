"""An engine in this process: threads that prepare requests, and one thread that reads and decodes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path

import torch

from vlm_core.errors import BadSample, UserError
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.model import VLM
from vlm_core.states.cache import StateCache
from vlm_core.states.disk_cache import DiskCache
from vlm_core.text.template import AnyTemplate
from vlm_serve.engine.batching import gpu
from vlm_serve.engine.batching.answer import CRASHED, Answer
from vlm_serve.engine.batching.decode_groups import Batching
from vlm_serve.engine.batching.fair_queue import FairQueue
from vlm_serve.engine.batching.scheduler import Scheduler
from vlm_serve.engine.prepare import Preparer
from vlm_serve.engine.request import Event, GenerationRequest, ModelFacts, refusal
from vlm_serve.engine.served_facts import served_facts
from vlm_serve.engine.settings import EngineSettings
from vlm_serve.engine.ticket import CLOSING, FULL, Outbox, Ticket, is_full

log = logging.getLogger(__name__)


class LocalEngine:
    """`Engine` of a loaded model. The model is in evaluation mode, and its weights don't change."""

    def __init__(
        self, model: VLM, template: AnyTemplate, settings: EngineSettings | None = None, *, name: str = "vlm"
    ) -> None:
        self.settings = settings = (settings or EngineSettings()).of_model(model)
        self._device = next(model.llm.parameters()).device
        self.cache = _cache(settings)
        with gpu.launching_on(self._device):
            self.scheduler = self._scheduler(model, template)
        self._facts = served_facts(model, template, name, settings.max_positions)
        self._tickets: set[Ticket] = set()
        self._outbox: Outbox | None = None
        self._unprepared: FairQueue[Ticket] = FairQueue()
        self._preparing = 0
        self._prepared: list[Answer] = []
        self._closing = self._ended = False
        self.lost = False
        """Whether the GPU or the decode thread has failed: every request fails, until another process takes over."""
        self._steps = [0] * (settings.preparing_threads + 1)
        self._work, self._decode = threading.Condition(), threading.Condition()
        self._threads = [
            threading.Thread(
                target=self._prepare_requests, args=(number,), name=f"prepare-{number}", daemon=True
            )
            for number in range(settings.preparing_threads)
        ]
        self._threads.append(threading.Thread(target=self._run, name="decode", daemon=True))
        for thread in self._threads:
            thread.start()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        settings: EngineSettings | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> LocalEngine:
        """The engine of a model folder; raises `UserError` as `vlm_core.model_folder.assemble.load`."""
        from vlm_core.model_folder.assemble import load

        model, spec = load(folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return cls(model, spec.template, settings, name=spec.name)

    def _scheduler(self, model: VLM, template: AnyTemplate) -> Scheduler:
        """With everything that takes long at a first request."""
        settings = self.settings
        self.reader = PrefixReader(model, template, self.cache)
        self.reader.prepare()
        self.preparer = Preparer(self.reader, settings.max_positions, shared_cache=settings.shared_cache)
        scheduler = Scheduler(self.reader, self.preparer, settings, Batching.of(model))
        scheduler.prepare()
        scheduler.state_budget = gpu.state_budget(settings, scheduler.costs, gpu.free_memory(self._device))
        return scheduler

    async def submit(self, request: GenerationRequest) -> AsyncGenerator[Event]:
        """As in `Engine`."""
        if self._closing:
            yield CLOSING
            return
        if is_full(self._waiting, self.settings.queue, request.owner, self._tickets):
            yield FULL
            return
        self._outbox = Outbox.here(self._outbox)
        ticket = Ticket(request, self._outbox)
        ticket.on_cancel = self._wake
        self._tickets.add(ticket)
        with self._work:
            self._unprepared.put(request.owner, ticket)
            self._work.notify()
        async with aclosing(ticket.events()) as events:
            try:
                async for event in events:
                    yield event
            finally:
                self._tickets.discard(ticket)

    def _wake(self) -> None:
        with self._decode:
            self._decode.notify()

    @property
    def _waiting(self) -> int:
        """Requests without a slot."""
        return len(self._unprepared) + self._preparing + len(self._prepared) + len(self.scheduler.waiting)

    def facts(self) -> ModelFacts:
        """As in `Engine`."""
        return self._facts

    def stats(self) -> Mapping[str, float]:
        """As in `Engine`. Names that end with `_total` only grow."""
        scheduler, counters = self.scheduler, self.scheduler.counters
        stats: dict[str, float] = {
            "queue_requests": self._waiting,
            "slots": self.settings.slots,
            "slots_in_use": scheduler.slots_in_use,
            "state_bytes": scheduler.state_bytes,
            "batch_rows": scheduler.batching.rows,
            "decode_graphs": scheduler.decode_graphs,
            "requests_total": counters.requests,
            "requests_finished_total": counters.finished,
            "requests_failed_total": counters.failed,
            "requests_cancelled_total": counters.cancelled,
            "generated_tokens_total": counters.generated_tokens,
            "prefill_positions_total": counters.prefill_positions,
            "cached_positions_total": counters.cached_positions,
            "decode_steps_total": counters.decode_steps,
        }
        if self.cache is not None:
            cache = self.cache.stats
            stats |= {
                "cache_hits_total": cache.hits,
                "cache_misses_total": cache.misses,
                "cache_disk_hits_total": cache.disk_hits,
                "cache_evicted_total": cache.evicted,
                "cache_damaged_total": cache.damaged,
                "cache_states": cache.entries,
                "cache_bytes": cache.nbytes,
                "cache_disk_states": cache.disk_entries,
                "cache_disk_bytes": cache.disk_bytes,
            }
        return stats

    def failure(self) -> UserError | None:
        """As in `Engine`."""
        return UserError("the engine has failed; the log says why") if self.lost else None

    def steps(self) -> tuple[int, ...]:
        """Of each thread, how many steps it has begun and ended, together: odd while one runs."""
        return tuple(self._steps)

    @contextmanager
    def _step(self, thread: int) -> Iterator[None]:
        self._steps[thread] += 1
        try:
            yield
        finally:
            self._steps[thread] += 1

    async def close(self, grace: float = 30.0) -> None:
        """As in `Engine`."""
        self._closing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        while loop.time() < end and not all(ticket.done for ticket in self._tickets):
            await asyncio.sleep(0.01)
        with self._work, self._decode:
            self._ended = True
            self._work.notify_all()
            self._decode.notify_all()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in self._threads))

    def _prepare_requests(self, thread: int) -> None:
        """A preparing thread: takes requests in turn of their owners."""
        while True:
            with self._work:
                while not self._unprepared and not self._ended:
                    self._work.wait()
                if self._ended:
                    for ticket in self._unprepared.remove_if(lambda _: True):
                        ticket.send(CLOSING)
                    return
                ticket = self._unprepared.take()
                self._preparing += 1
            try:
                with self._step(thread):
                    self._prepare(ticket)
            finally:
                with self._work:
                    self._preparing -= 1

    def _prepare(self, ticket: Ticket) -> None:
        if ticket.cancelled:
            return
        try:
            answer = Answer(self.preparer(ticket.request), ticket)
        except (UserError, BadSample) as error:
            ticket.send(refusal(error))
            return
        except Exception:
            log.exception("request %s: preparing it failed", ticket.request.id)
            ticket.send(CRASHED)
            return
        with self._decode:
            if self._ended or self.lost:
                ticket.send(CRASHED if self.lost else CLOSING)
                return
            self._prepared.append(answer)
            self._decode.notify()

    def _arriving(self) -> list[Answer]:
        """The requests that were prepared since the last call."""
        with self._decode:
            arriving, self._prepared = self._prepared, []
        return arriving

    def _run(self) -> None:
        """The decode thread."""
        try:
            with gpu.launching_on(self._device):
                self._decode_requests()
        except Exception:
            log.critical("the thread that decodes ended", exc_info=True)
            self._lose()

    def _decode_requests(self) -> None:
        worked = True
        while True:
            with self._decode:
                if not worked and not self._prepared and not self._ended:
                    self._decode.wait()
                ended = self._ended
            for answer in self._arriving():
                self.scheduler.add(answer)
            if ended:
                self.scheduler.fail_all(CLOSING)
                return
            failed = self.scheduler.counters.failed
            try:
                with self._step(-1):
                    worked = self.scheduler.step(self._arriving)
            except Exception:  # of the scheduler itself: no request is known to be sound
                log.exception("a step of the engine failed")
                self.scheduler.fail_all(CRASHED)
            if self.scheduler.counters.failed > failed and gpu.is_lost(self._device):
                log.critical("the GPU answers no more in this process")
                self._lose()
                return

    def _lose(self) -> None:
        """Fail what there is and what comes: nothing can be computed any more."""
        with self._decode:
            self.lost = True
        for answer in self._arriving():
            answer.receiver.send(CRASHED)
        self.scheduler.fail_all(CRASHED)


def _cache(settings: EngineSettings) -> StateCache | None:
    folder = settings.cache_folder
    if not settings.cache_bytes and folder is None:
        return None
    disk = None if folder is None else DiskCache(folder, settings.cache_folder_bytes)
    return StateCache(settings.cache_bytes, disk)
