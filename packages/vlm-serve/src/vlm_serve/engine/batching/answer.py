"""A request on its way to its last event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from vlm_core.generation.generate import Session
from vlm_serve.engine.prepare import PreparedRequest
from vlm_serve.engine.request import Event, Failed

CRASHED = Failed("crashed", "the server failed on this request; its log says why")
NOT_FINITE = Failed(
    "crashed", "the model's logits are not finite: its weights are damaged, or too large for their dtype"
)


class Receiver(Protocol):
    """Who asked."""

    cancelled: bool

    def send(self, event: Event) -> None: ...

    def hold(self, event: Event) -> None:
        """As `send`, at the next `flush`."""

    def flush(self) -> None: ...


@dataclass(eq=False)
class Answer:
    """A request from its preparation to its last event."""

    prepared: PreparedRequest
    receiver: Receiver
    bytes: int = 0
    tokens: list[int] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    steps: Iterator[int] | None = None
    session: Session | None = None
    read: int = 0
    cached: int | None = None

    @property
    def unread_keys(self) -> set[str]:
        """Keys of the prefixes that are still to be read."""
        return {history.key for history in self.prepared.plan.histories if history.positions > self.read}

    @property
    def unread(self) -> int:
        return self.prepared.plan.positions - self.read


@dataclass
class Counters:
    """Counts since the engine was started."""

    requests: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    generated_tokens: int = 0
    prefill_positions: int = 0
    cached_positions: int = 0
    decode_steps: int = 0
