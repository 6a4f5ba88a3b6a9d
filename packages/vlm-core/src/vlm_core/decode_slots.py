"""The contract of memory in which sequences that come and go are decoded together."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class DecodeSlots(Protocol):
    """States of sequences in numbered slots; a step changes them in place, so that it allocates and copies none.

    Shapes: M model width. What a slot holds before its first `put` is finite.
    """

    def put(self, slot: int, state: Any) -> None:
        """Copy a state of one sequence into a slot."""

    def take(self, slot: int) -> Any:
        """A copy of the state in a slot."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copy what one slot holds to another."""

    def step(self, x: Tensor) -> Tensor:
        """Process one position of the first n slots: embeddings x (n, 1, M) -> hidden states (n, 1, M).

        As `LanguageModel.forward` with the state of these sequences, bit by bit. On a GPU the host doesn't wait, and
        the memory of states and weights is the same in each call: a step may be part of a CUDA graph.
        """
        ...
