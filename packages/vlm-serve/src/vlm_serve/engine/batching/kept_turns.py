"""Finished conversations, whose states are kept for their next turns."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from vlm_core.errors import UserError
from vlm_serve.engine.batching.fair_queue import FairQueue
from vlm_serve.engine.prepare import PreparedRequest, Preparer
from vlm_serve.engine.settings import EngineSettings

log = logging.getLogger(__name__)
MOST = 16
"""Conversations that wait for being read, at most; of more, the oldest of the owner with the most is left out."""


class KeptTurns:
    """Reads on in conversations to the end of their answers; the cache keeps the states.

    The next turn, which quotes the answer as text, begins there. A state that has decoded the answer token by token has
    other bits than one that has read it, so it isn't the one that is kept.
    """

    def __init__(self, preparer: Preparer, settings: EngineSettings) -> None:
        self.preparer, self.settings = preparer, settings
        self._turns: FairQueue[tuple[PreparedRequest, str]] = FairQueue()
        self._reading: Iterator[int] | None = None

    def add(self, prepared: PreparedRequest, answer: str) -> None:
        """A conversation has its answer. Nothing happens without a cache, or for text that was continued."""
        if self.preparer.reader.cache is not None and prepared.conversation is not None:
            self._turns.put(prepared.request.owner, (prepared, answer))
            if len(self._turns) > MOST:
                self._turns.drop_of_most()

    def step(self) -> bool:
        """Read a part -> whether there was one."""
        if self._reading is None:
            if not self._turns:
                return False
            self._reading = self._steps(*self._turns.take())
        try:
            next(self._reading)
        except StopIteration:
            self._reading = None
        except Exception:  # the next turn reads the answer itself
            log.exception("keeping a finished conversation failed")
            self._reading = None
        return True

    def _steps(self, prepared: PreparedRequest, answer: str) -> Iterator[int]:
        conversation, reader = prepared.conversation, self.preparer.reader
        assert conversation is not None
        try:
            tokens = self.preparer.rendered(conversation, answer)
        except (UserError, ValueError):  # the template can't render such an answer
            return
        plan = reader.plan(tokens, conversation.images, system=conversation.system)
        yield from reader.steps(self.settings.session(reader.model), plan, prepared.owner)
