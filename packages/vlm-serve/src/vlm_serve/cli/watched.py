"""An engine and the model folder that it was loaded from, which may change while it is served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from vlm_core.errors import UserError, one_line
from vlm_core.io.files import JSON_BYTES, read_bytes
from vlm_core.io.manifest import MANIFEST
from vlm_serve.engine.request import Engine, Event, GenerationRequest, ModelFacts

log = logging.getLogger(__name__)
POLL_SECONDS = 5.0


def folder_version(folder: Path) -> str | None:
    """The digest of a model folder's manifest, which holds those of all its files; None if there is none."""
    try:
        return sha256(read_bytes(folder / MANIFEST, JSON_BYTES)).hexdigest()
    except UserError:
        return None


class WatchedEngine:
    """An `Engine` that notices when its folder changes.

    With `start`, another engine is made of the folder's new content, once it stays the same between two looks; new
    requests go there, and the old one ends after its last request. A folder that can't be loaded changes nothing.
    Without `start`, a change is told once. `stats()["model_folder_changed"]` is 1 while another content is served than
    the folder has.
    """

    def __init__(
        self, engine: Engine, folder: Path, version: str | None, name: str, start: Callable[[], Engine] | None
    ) -> None:
        self._engine, self._folder, self._version, self._name, self._start = (
            engine,
            folder,
            version,
            name,
            start,
        )
        self._reported = self._seen = version
        self._requests: dict[Engine, int] = {engine: 0}

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """As in `Engine`."""
        engine = self._engine
        self._requests[engine] += 1
        try:
            async with aclosing(engine.submit(request)) as events:  # pyright: ignore[reportArgumentType]
                async for event in events:
                    yield event
        finally:
            self._requests[engine] -= 1

    def facts(self) -> ModelFacts:
        """As in `Engine`."""
        facts = self._engine.facts()
        return replace(facts, name=self._name) if self._name else facts

    def stats(self) -> Mapping[str, float]:
        """As in `Engine`, of the engine that gets new requests."""
        return {**self._engine.stats(), "model_folder_changed": float(self._seen != self._version)}

    async def close(self, grace: float = 30.0) -> None:
        """As in `Engine`."""
        await asyncio.gather(*(engine.close(grace) for engine in self._requests))

    async def watch(self) -> UserError:
        """Look at the folder until no request can be answered any more -> why."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.look()
            if (failure := self._engine.failure()) is not None and not self._will_load:
                return failure

    @property
    def _will_load(self) -> bool:
        """Whether the next look may load the folder."""
        return self._start is not None and self._seen not in (self._version, self._reported)

    def failure(self) -> UserError | None:
        """As in `Engine`, of the engine that gets new requests."""
        return self._engine.failure()

    async def look(self) -> None:
        """Look at the folder once: tell of a change, or load it."""
        before, self._seen = self._seen, await asyncio.to_thread(folder_version, self._folder)
        await self._end_old()
        if self._seen in (self._version, self._reported) or self._seen != before:
            return  # nothing new, or it is being written
        self._reported = self._seen
        if self._start is None:
            log.warning(
                "%s has changed; its old content is served until vlm-serve is started again", self._folder
            )
        else:
            await self._reload(self._start)

    async def _reload(self, start: Callable[[], Engine]) -> None:
        version = self._seen
        log.info("%s has changed and is loaded", self._folder)
        try:
            engine = await asyncio.to_thread(start)
        except Exception as error:  # whatever it is: the server goes on
            log.error(
                "%s cannot be loaded, so that its old content is served: %s", self._folder, one_line(error)
            )
            return
        self._engine, self._version = engine, version
        self._requests[engine] = 0
        log.info("%s: its new content is served (digest %s)", self._folder, engine.facts().digest[:12])
        await self._end_old()

    async def _end_old(self) -> None:
        """Close engines of earlier contents that have no request left."""
        for engine in [e for e, number in self._requests.items() if e is not self._engine and not number]:
            del self._requests[engine]
            await engine.close(0)
