"""Steps of a group on a GPU: one CUDA graph for each number of rows, from the ids to the most likely next ones.

Another graph draws ids instead, for all rows alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlm_core.decode_slots import DecodeSlots
from vlm_core.generation.sampling import most_likely
from vlm_core.interfaces import LanguageModel
from vlm_core.numerics.cuda_graphs import Captured, capture, refused, settings
from vlm_core.numerics.graph_fingerprint import Fingerprint
from vlm_core.numerics.low_precision_matmul import upcast_matmul
from vlm_serve.engine.sampling.group_draws import Draw, GroupDraws


def sizes(rows: int) -> tuple[int, ...]:
    """Numbers of rows that are captured for groups of up to `rows`: powers of two, and `rows`.

    A group of another number computes free slots as well: they are few, and so are the graphs.
    """
    return (*(1 << i for i in range((rows - 1).bit_length())), rows)


class GraphSteps:
    """Processes an id of each of the first slots; the chosen ids stay on the GPU, as those of the next step.

    So a step can be launched before the ids of the step before it have reached the host. All graphs share one memory: a
    step overwrites the logits of the step before it. If one can't be captured, a warning says so, and steps are
    launched call by call, with the same results. For one thread, on its current stream.
    """

    @torch.inference_mode()
    def __init__(self, llm: LanguageModel[Any], slots: DecodeSlots, sizes: Sequence[int]) -> None:
        """`slots` are free: capturing changes what is in them. `sizes`: numbers of rows, ascending."""
        self._llm, self._slots, self._sizes = llm, slots, sizes
        device, rows = next(llm.parameters()).device, sizes[-1]
        pinned = device.type == "cuda"
        self._ids = torch.zeros(rows, dtype=torch.long, device=device)
        # of this step and the one before: a copy may still wait for the GPU
        self._known, self._read = torch.zeros(
            2, 2, rows, dtype=torch.long, device="cpu", pin_memory=pinned
        ).unbind()
        self._turn, self._fingerprint = 0, Fingerprint()
        self._graphs: dict[int, Captured] = {}
        self._draws: GroupDraws | None = None
        self._draw_graph: Captured | None = None
        self._captured_of: Any = None
        self.renew()

    @property
    def count(self) -> int:
        """Number of graphs; 0 if steps are launched call by call."""
        return len(self._graphs) + (self._draw_graph is not None)

    @torch.inference_mode()
    def renew(self) -> None:
        """Capture again if weights have moved. All slots are free; while one is in use, weights must not move."""
        now = (self._fingerprint.of([self._llm]), settings())
        if now != self._captured_of:
            self._graphs, self._draw_graph, self._captured_of = {}, None, now
            self._capture(modules_are_plain=now[0] is not None)

    def _capture(self, *, modules_are_plain: bool) -> None:
        try:
            if not modules_are_plain:
                raise RuntimeError("a module has a hook, another forward, or is in training mode")
            pool = None
            for size in reversed(self._sizes):  # the largest first: its memory is enough for the others
                self._graphs[size] = capture(partial(self._run, size), pool)
                pool = self._graphs[size].pool
            self._draws = self._new_draws(self._graphs[self._sizes[-1]].outputs[0])
            self._draw_graph = capture(self._draw, pool)
        except RuntimeError as error:
            self._graphs, self._draw_graph = {}, None
            refused("the decoding of a group", error)

    def _run(self, size: int) -> tuple[Tensor, Tensor]:
        """-> logits (size, V), and the most likely of the tokenizer's ids (size)."""
        x = self._llm.embed(self._ids[:size].unsqueeze(1))
        with upcast_matmul(x):
            hidden = self._slots.step(x)
        logits = self._llm.logits(hidden[:, -1])
        best = most_likely(logits[:, : len(self._llm.tokenizer)])
        self._ids[:size].copy_(best.clamp(min=0))  # -1 is no id
        return logits, best

    def _new_draws(self, logits: Tensor) -> GroupDraws:
        return GroupDraws(logits, self._sizes[-1], len(self._llm.tokenizer))

    def _draw(self) -> tuple[Tensor, ...]:
        """Choose again, now with draws."""
        assert self._draws is not None
        (ids,) = self._draws.run()
        self._ids.copy_(ids.clamp(min=0))
        return (ids,)

    def _drawn(self, logits: Tensor, best: Tensor, draws: Sequence[Draw | None]) -> Tensor:
        """The most likely ids, with those that are drawn in their place."""
        if self._draws is None:
            self._draws = self._new_draws(logits)
        self._draws.set(logits, best, draws, self._turn)
        if self._draw_graph is None:
            self._draw()
        else:
            self._draw_graph.replay()
        return self._draws.ids

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """The sequence of a slot has moved to another one."""
        self._ids[target] = self._ids[source]

    @torch.inference_mode()
    def launch(
        self, count: int, known: Mapping[int, int], draws: Sequence[Draw | None] = ()
    ) -> tuple[Tensor, Callable[[], list[int]]]:
        """Begin a step of `count` rows -> (logits (count, V), what waits for the chosen ids and returns them).

        `known`: ids by slot that aren't those of the step before. An id is drawn where there is a draw, else the most
        likely. What waits must be called before the launch after the next; logits are those of this step until the
        next launch.
        """
        self._turn = 1 - self._turn
        self._set(known)
        size = next(size for size in self._sizes if size >= count)
        graph = self._graphs.get(size)
        if graph is None:
            logits, best = self._run(size)
        else:
            graph.replay()
            logits, best = graph.outputs
        ids = self._drawn(logits, best, draws) if any(draws) else best
        numbers = self._read[self._turn, :count]
        numbers.copy_(ids[:count], non_blocking=True)
        done = torch.cuda.current_stream().record_event() if ids.is_cuda else None

        def read() -> list[int]:
            if done is not None:
                done.synchronize()
            return numbers.tolist()

        return logits[:count], read

    def _set(self, known: Mapping[int, int]) -> None:
        """Ids of all slots in one copy; of some, one by one."""
        count = len(known)
        if count and max(known) == count - 1:
            ids = self._known[self._turn, :count].copy_(torch.tensor([known[i] for i in range(count)]))
            self._ids[:count].copy_(ids, non_blocking=True)
        else:
            for slot, token in known.items():
                self._ids[slot].fill_(token)
