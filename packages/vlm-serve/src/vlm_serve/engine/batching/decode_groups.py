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
from vlm_core.numerics.low_precision_matmul import upcast_matmul

ROWS = 16
"""Sequences of a group: the fused CPU step of Mamba layers takes as many."""
PROBES = (2, 3, 5, 8, ROWS)
T = TypeVar("T")


class Batching(NamedTuple):
    """Sequences of a group at most, and whether all slots are computed, also those that are free."""

    rows: int
    padded: bool = False

    @classmethod
    def of(cls, model: VLM) -> Batching:
        """The fastest of: groups of any number, groups of `ROWS` always, one sequence at a time.

        The first two are taken only if the logits of sequences in groups equal, bit by bit, those of the same sequence
        in other places and company.
        """
        if model.llm.decode_slots(ROWS) is None:
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
    group = Group[int](model, Batching(ROWS))
    group.change([], [(place, states[row]) for place, row in enumerate(rows)])
    return group.step([ids[row] for row in rows])


def _equal(
    model: VLM, states: Sequence[Any], ids: Sequence[int], rows: Sequence[int], expected: Sequence[Tensor]
) -> bool:
    return torch.equal(_logits_of(model, states, ids, rows), torch.cat([expected[row] for row in rows]))


class Group(Generic[T]):
    """Sequences that are decoded together: `members` in the order of their slots.

    Whoever joins takes the first free slot, and the last member moves to the slot of one that leaves: what a step
    computes is without gaps, and no other state is copied.
    """

    def __init__(self, model: VLM, batching: Batching, most: int = ROWS) -> None:
        """`most`: members that all groups together can have."""
        self.model, self.batching = model, batching
        self.rows = batching.rows if batching.padded else min(batching.rows, most)
        self.members: list[T] = []
        self._slots = model.llm.decode_slots(self.rows) if self.rows > 1 else None
        self._state: Any = None  # of the only member, without slots

    def change(self, leaving: Sequence[T], joining: Sequence[tuple[T, State]]) -> None:
        """Take members out and others in; no state changes."""
        for member in leaving:
            self._leave(self.members.index(member))
        assert len(self.members) + len(joining) <= self.rows, "the group is full"
        for member, state in joining:
            if self._slots is None:
                self._state = state
            else:
                self._slots.put(len(self.members), state)
            self.members.append(member)

    def _leave(self, slot: int) -> None:
        self._state, last = None, self.members.pop()
        if slot < len(self.members):
            self.members[slot] = last
            assert self._slots is not None
            self._slots.move(len(self.members), slot)

    @torch.inference_mode()
    def step(self, ids: Sequence[int]) -> Tensor:
        """Process an id of each member -> logits (members, V). After an error the states are of no use."""
        llm = self.model.llm
        count = self.rows if self.batching.padded else len(ids)
        filled = torch.tensor([*ids, *[ids[-1]] * (count - len(ids))], device=next(llm.parameters()).device)
        x = llm.embed(filled.unsqueeze(1))
        if self._slots is None:
            hidden, self._state = self.model.forward_embeds(x, None, self._state)
        else:
            with upcast_matmul(x):
                hidden = self._slots.step(x)
        return llm.logits(hidden[:, -1])[: len(ids)]

    def taken(self, member: T) -> Any:
        """A copy of a member's state."""
        return self._state if self._slots is None else self._slots.take(self.members.index(member))
