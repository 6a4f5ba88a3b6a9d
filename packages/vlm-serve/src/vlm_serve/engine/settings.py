"""Limits of an engine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.model import VLM
from vlm_core.states.cache import MEMORY_BYTES
from vlm_core.states.disk_cache import DISK_BYTES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """What an engine may use. Raises `UserError` for values out of range."""

    slots: int = 16
    """Answers that are generated at once."""
    state_bytes: int | None = None
    """Budget of the live states together; None: that of all slots, or what a GPU has room for."""
    queue: int = 256
    """Requests that may wait for a slot; more are refused as `overloaded`, but for an owner below an equal share."""
    max_positions: int = 16384
    """Positions that a prompt and its answer may have together; fewer if the model was made for fewer."""
    prefill_chunk: int = 512
    """Positions of a prompt that are read between two steps of decoding."""
    image_chunk: int = 8
    """Views of an image, or frames of a video, that are encoded between two steps of decoding."""
    cache_bytes: int = MEMORY_BYTES
    """Budget of the state cache in memory; 0 keeps no states."""
    cache_folder: Path | None = None
    """Folder that also keeps the states, across restarts."""
    cache_folder_bytes: int = DISK_BYTES
    shared_cache: bool = False
    """Whether states are found by the requests of all owners."""
    preparing_threads: int = 2
    """Threads that render prompts and decode images."""

    def __post_init__(self) -> None:
        for name in (
            "slots",
            "queue",
            "max_positions",
            "prefill_chunk",
            "image_chunk",
            "preparing_threads",
        ):
            self._at_least(name, 1)
        for name in ("state_bytes", "cache_bytes", "cache_folder_bytes"):
            if getattr(self, name) is not None:
                self._at_least(name, 0)

    def session(self, model: VLM) -> Session:
        """An empty session, which reads in parts of these sizes."""
        return Session(model, prefill_chunk=self.prefill_chunk, image_chunk=self.image_chunk)

    def of_model(self, model: VLM) -> EngineSettings:
        """These settings, with no more positions than the model was made for: beyond, its answers mean nothing."""
        most = model.llm.max_positions
        if most is None or most >= self.max_positions:
            return self
        log.warning("the model was made for %d positions: a prompt and its answer may have no more", most)
        return replace(self, max_positions=most)

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or value < least:
            raise UserError(f"{name} is {value!r}; expected a whole number, at least {least}")
