"""Sequences that are decoded together, in groups whose results don't depend on who is in them.

A sum over the same numbers in another order has other bits, and a product of matrices may choose its order by the
number of rows. `Batching.of` tests on the model itself what its results depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from vlm_core.interfaces import State
from vlm_core.model import VLM

ROWS = 16
"""Sequences of a group: the fused CPU step of Mamba layers takes as many."""
PROBES = (2, 3, 5, 8, ROWS)
T = TypeVar("T")


class Batching(NamedTuple):
    """Sequences of a group at most, and whether a smaller group is filled up to that number with copies."""

    rows: int
    padded: bool = False

    @classmethod
    def of(cls, model: VLM) -> Batching:
        """The fastest of: groups of any number, groups of `ROWS` always, one sequence at a time.

        The first two are taken only if the logits of sequences in groups equal, bit by bit, those of the same sequence
        in other places and company.
        """
        if not model.llm.joins_states:
            return cls(1)
        states, ids = _probe(model)
        alone = [_logits_of(model, states, ids, [row]) for row in range(ROWS)]
        if all(_equal(model, states, ids, list(range(count)), alone) for count in PROBES):
            return cls(ROWS)
        orders = [[(row + shift) % ROWS for row in range(ROWS)] for shift in (0, 1, 7)]
        orders.append([0] * ROWS)
        full = _logits_of(model, states, ids, orders[0]).split(1)
        if all(_equal(model, states, ids, order, full) for order in orders):
            return cls(ROWS, padded=True)
        return cls(1)


@torch.inference_mode()
def _probe(model: VLM) -> tuple[list[Any], list[int]]:
    """States of `ROWS` sequences and the ids that follow."""
    device = next(model.llm.parameters()).device
    size = len(model.llm.tokenizer)
    ids = [(7919 * row + 13) % size for row in range(ROWS)]
    states = []
    for i in ids:
        prompt = torch.tensor([[i, (i + 1) % size, (i * 31) % size]], device=device)
        states.append(model.forward_embeds(model.llm.embed(prompt))[1])
    return states, ids


def _logits_of(model: VLM, states: Sequence[Any], ids: Sequence[int], rows: Sequence[int]) -> Tensor:
    state = model.llm.join_states([states[row] for row in rows])
    return decode_step(model, state, [ids[row] for row in rows])[0]


def _equal(
    model: VLM, states: Sequence[Any], ids: Sequence[int], rows: Sequence[int], expected: Sequence[Tensor]
) -> bool:
    return torch.equal(_logits_of(model, states, ids, rows), torch.cat([expected[row] for row in rows]))


@torch.inference_mode()
def decode_step(model: VLM, state: Any, ids: Sequence[int]) -> tuple[Tensor, Any]:
    """Process an id of each sequence -> (logits (B, V), state)."""
    device = next(model.llm.parameters()).device
    x = model.llm.embed(torch.tensor(ids, device=device).unsqueeze(1))
    hidden, state = model.forward_embeds(x, None, state)
    return model.llm.logits(hidden[:, -1]), state


class Group(Generic[T]):
    """Sequences whose states are one tensor: `members` in the order of its rows. Padding follows them."""

    def __init__(self, model: VLM, batching: Batching) -> None:
        self.model, self.batching = model, batching
        self.members: list[T] = []
        self._state: Any = None
        self._rows = 0

    def change(self, leaving: Sequence[T], joining: Sequence[tuple[T, State]]) -> None:
        """Take members out and others in; nothing is computed, and no state changes."""
        kept = [i for i, member in enumerate(self.members) if member not in leaving]
        members = [self.members[i] for i in kept] + [member for member, _ in joining]
        assert len(members) <= self.batching.rows, "the group is full"
        llm, states = self.model.llm, [state for _, state in joining]
        with torch.inference_mode():
            if kept and (len(kept) < self._rows):
                self._state = llm.take_sequences(self._state, kept)
            if kept:
                states.insert(0, self._state)
            self._state = None
            if states:
                self._state = states[0] if len(states) == 1 else llm.join_states(states)
            self._rows, self.members = len(members), members
            self._pad()

    def _pad(self) -> None:
        rows = self.batching.rows
        if self.batching.padded and 0 < self._rows < rows:
            places = [min(i, self._rows - 1) for i in range(rows)]
            self._state, self._rows = self.model.llm.take_sequences(self._state, places), rows

    def step(self, ids: Sequence[int]) -> Tensor:
        """Process an id of each member -> logits (members, V). After an error the state is unchanged."""
        filled = [*ids, *[ids[-1]] * (self._rows - len(ids))]
        logits, self._state = decode_step(self.model, self._state, filled)
        return logits[: len(ids)]

    def taken(self, member: T) -> Any:
        """A copy of a member's state."""
        if self._rows == 1:
            return self._state
        with torch.inference_mode():
            return self.model.llm.take_sequences(self._state, [self.members.index(member)])
