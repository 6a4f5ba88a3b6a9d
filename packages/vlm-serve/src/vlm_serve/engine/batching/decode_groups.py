"""Sequences that are decoded together, in groups whose results don't depend on who is in them.

A sum over the same numbers in another order has other bits, and a product of matrices may choose its order by the
number of rows. `Batching.of` tests on the model itself what its results depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from vlm_core.generation.sampling import most_likely
from vlm_core.interfaces import State
from vlm_core.model import VLM
from vlm_core.numerics.low_precision_matmul import upcast_matmul
from vlm_serve.engine.batching.graph_steps import GraphSteps, sizes
from vlm_serve.engine.sampling.group_draws import Draw

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
        probe = _Probe(model)
        alone = [probe.logits_of([row]) for row in range(ROWS)]
        if all(probe.equal(list(range(count)), alone) for count in PROBES):
            return cls(ROWS)
        orders = [[(row + shift) % ROWS for row in range(ROWS)] for shift in (0, 1, 7)]
        orders.append([0] * ROWS)
        full = probe.logits_of(orders[0]).split(1)
        if all(probe.equal(order, full) for order in orders):
            return cls(ROWS, padded=True)
        return cls(1)


class _Probe:
    """States of `ROWS` sequences and the ids that follow, decoded in one group after the other."""

    def __init__(self, model: VLM) -> None:
        device, size = next(model.llm.parameters()).device, len(model.llm.tokenizer)
        self.ids = [(7919 * row + 13) % size for row in range(ROWS)]
        self.states: list[Any] = []
        self.group = Group[int](model, Batching(ROWS))
        with torch.inference_mode():
            for i in self.ids:
                prompt = torch.tensor([[i, (i + 1) % size, (i * 31) % size]], device=device)
                self.states.append(model.forward_embeds(model.llm.embed(prompt))[1])

    def logits_of(self, rows: Sequence[int]) -> Tensor:
        """Logits (rows, V) of these sequences together."""
        joining = [(place, self.states[row]) for place, row in enumerate(rows)]
        self.group.change(list(self.group.members), joining)
        return self.group.step([self.ids[row] for row in rows]).clone()

    def equal(self, rows: Sequence[int], expected: Sequence[Tensor]) -> bool:
        return torch.equal(self.logits_of(rows), torch.cat([expected[row] for row in rows]))


@dataclass(eq=False)
class Step(Generic[T]):
    """What a step computes for `members`, perhaps still on the GPU: logits (members, V), until the next step."""

    members: list[T]
    logits: Tensor
    read: Callable[[], list[int]]
    """Waits for the most likely of the tokenizer's ids, or those drawn; -1 if a member's logits are not finite."""
    draws: Sequence[Draw | None] = ()


class Group(Generic[T]):
    """Sequences that are decoded together: `members` in the order of their slots.

    Whoever joins takes the first free slot, and the last member moves to the slot of one that leaves: what a step
    computes is without gaps, and no other state is copied. On a GPU steps are CUDA graphs, see `GraphSteps`.
    """

    def __init__(self, model: VLM, batching: Batching, most: int = ROWS) -> None:
        """`most`: members that all groups together can have."""
        self.model, self.batching = model, batching
        self.rows = batching.rows if batching.padded else min(batching.rows, most)
        self.members: list[T] = []
        self.running: Step[T] | None = None
        """A step that was launched ahead of its reader."""
        on_gpu = steps_are_graphs(model)
        self._slots = model.llm.decode_slots(self.rows) if self.rows > 1 or on_gpu else None
        self._state: Any = None  # of the only member, without slots
        self._graphs: GraphSteps | None = None
        if self._slots is not None and on_gpu:
            rows = (self.rows,) if batching.padded else sizes(self.rows)
            self._graphs = GraphSteps(model.llm, self._slots, rows)

    @property
    def graphs(self) -> int:
        """Number of its CUDA graphs."""
        return 0 if self._graphs is None else self._graphs.count

    @property
    def runs_ahead(self) -> bool:
        """Whether a step can follow another whose ids have not been read."""
        return self._graphs is not None

    def change(self, leaving: Sequence[T], joining: Sequence[tuple[T, State]]) -> None:
        """Take members out and others in; no state changes."""
        for member in leaving:
            self._leave(self.members.index(member))
        if not self.members:
            self.running = None
        assert len(self.members) + len(joining) <= self.rows, "the group is full"
        if joining and not self.members and self._graphs is not None:
            self._graphs.renew()
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
            if self._graphs is not None:
                self._graphs.move(len(self.members), slot)

    def step(self, ids: Sequence[int]) -> Tensor:
        """Process an id of each member -> logits (members, V)."""
        return self.launch(ids).logits

    @torch.inference_mode()
    def launch(self, ids: Sequence[int | None], draws: Sequence[Draw | None] = ()) -> Step[T]:
        """Process an id of each member; None: that of the last step. After an error states are of no use.

        `draws` are for a group on a GPU alone.
        """
        if self._graphs is not None:
            known = {slot: token for slot, token in enumerate(ids) if token is not None}
            return Step(list(self.members), *self._graphs.launch(len(ids), known, draws), draws=draws)
        assert None not in ids, "only a GPU keeps its ids"
        llm = self.model.llm
        count = self.rows if self.batching.padded else len(ids)
        filled = torch.tensor([*ids, *[ids[-1]] * (count - len(ids))], device=next(llm.parameters()).device)
        x = llm.embed(filled.unsqueeze(1))
        if self._slots is None:
            hidden, self._state = self.model.forward_embeds(x, None, self._state)
        else:
            with upcast_matmul(x):
                hidden = self._slots.step(x)
        logits = llm.logits(hidden[:, -1])[: len(ids)]
        best = most_likely(logits[:, : len(llm.tokenizer)])
        return Step(list(self.members), logits, best.tolist)

    def taken(self, member: T) -> Any:
        """A copy of a member's state."""
        return self._state if self._slots is None else self._slots.take(self.members.index(member))


def steps_are_graphs(model: VLM) -> bool:
    """Whether steps of several sequences are launched as CUDA graphs."""
    return next(model.llm.parameters()).is_cuda
