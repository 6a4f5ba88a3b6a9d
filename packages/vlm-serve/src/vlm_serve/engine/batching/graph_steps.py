"""Steps of a group on a GPU: one CUDA graph for each number of rows, from the ids to the most likely next ones."""

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

WHAT = "the decoding of a group"


def sizes(rows: int) -> tuple[int, ...]:
    """Numbers of rows that are captured for groups of up to `rows`: powers of two, and `rows`.

    A group of another number computes free slots as well: they are few, and so are the graphs.
    """
    return (*(1 << i for i in range((rows - 1).bit_length())), rows)


class GraphSteps:
    """Processes an id of each of the first slots; the most likely ids stay on the GPU, as those of the next step.

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
        self._captured_of: Any = None
        self.check(free=True)

    @property
    def count(self) -> int:
        """Number of graphs; 0 if steps are launched call by call."""
        return len(self._graphs)

    @torch.inference_mode()
    def check(self, *, free: bool) -> None:
        """Drop graphs of weights that have moved; capture again if all slots are `free`."""
        now = (self._fingerprint.of([self._llm]), settings())
        if now != self._captured_of:
            self._graphs = {}
            if free:
                self._captured_of = now
                self._capture(hidden_changes=now[0] is None)

    def _capture(self, *, hidden_changes: bool) -> None:
        try:
            if hidden_changes:
                raise RuntimeError("a module has a hook, another forward, or is in training mode")
            pool = None
            for size in reversed(self._sizes):  # the largest first: its memory is enough for the others
                self._graphs[size] = capture(partial(self._run, size), pool)
                pool = self._graphs[size].pool
        except RuntimeError as error:
            self._graphs = {}
            refused(WHAT, error)

    def _run(self, size: int) -> tuple[Tensor, Tensor]:
        """-> logits (size, V), and the most likely of the tokenizer's ids (size)."""
        x = self._llm.embed(self._ids[:size].unsqueeze(1))
        with upcast_matmul(x):
            hidden = self._slots.step(x)
        logits = self._llm.logits(hidden[:, -1])
        best = most_likely(logits[:, : len(self._llm.tokenizer)])
        self._ids[:size].copy_(best.clamp(min=0))  # -1 is no id
        return logits, best

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """The sequence of a slot has moved to another one."""
        self._ids[target] = self._ids[source]

    @torch.inference_mode()
    def launch(self, count: int, known: Mapping[int, int]) -> tuple[Tensor, Callable[[], list[int]]]:
        """Begin a step of `count` rows -> (logits (count, V), what waits for the most likely ids and returns them).

        `known`: ids by slot that aren't those of the step before. What waits must be called before the launch after
        the next; logits are those of this step until the next launch.
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
        numbers = self._read[self._turn, :count]
        numbers.copy_(best[:count], non_blocking=True)
        done = torch.cuda.current_stream().record_event() if best.is_cuda else None

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
