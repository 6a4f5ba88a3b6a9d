"""Which prompt is read next: short ones don't wait for a long one, and long ones progress."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_serve.engine.batching.answer import Answer


class PromptOrder:
    """Chooses among the answers whose prompts are being read."""

    def __init__(self, *, caches: bool) -> None:
        """`caches`: whether a prefix that one prompt has read is then found by others."""
        self._caches, self._round = caches, 0

    def begin_round(self) -> None:
        """Prompts will be read, between two steps of decoding."""
        self._round += 1

    def next(self, reading: Sequence[Answer], room: int, *, first: bool) -> Answer | None:
        """The oldest prompt of those that fit into `room` positions; None if none does.

        As the first of every second round, the oldest of all; of the others, the one with the fewest unread positions
        if none fits.
        """
        ready = [answer for answer in reading if answer.steps and not self._is_being_read(answer, reading)]
        fitting = [answer for answer in ready if answer.unread <= room]
        if not first or not ready:
            return fitting[0] if fitting else None
        if self._round % 2 == 0:
            return ready[0]
        return fitting[0] if fitting else min(ready, key=lambda answer: answer.unread)

    def _is_being_read(self, answer: Answer, reading: Sequence[Answer]) -> bool:
        """Whether another request is reading what this one begins with, which is then in the cache."""
        if not self._caches or answer.cached is not None:
            return False
        return any(
            other.cached is not None
            and other.prepared.owner == answer.prepared.owner
            and other.unread_keys & answer.unread_keys
            for other in reading
        )
