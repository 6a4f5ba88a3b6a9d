"""Memory in which sequences that come and go are decoded together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlm_llms.mamba.cuda_graph import Buffers
from vlm_llms.mamba.state import MambaState, state_of
from vlm_ssm.runtime.huge_pages import with_huge_pages


class MambaSlots:
    """`vlm_core.decode_slots.DecodeSlots` of a model whose state has a constant size."""

    def __init__(self, step: Callable[[Tensor, Buffers], Tensor], buffers: Buffers) -> None:
        """`step`: x (n, 1, M) and the states of n sequences, which it changes -> hidden states (n, 1, M).

        `buffers`: zeros (layers, slots, W-1, E) and (layers, slots, E, S).
        """
        self._step, self._buffers = step, [with_huge_pages(buffer) for buffer in buffers]

    @torch.inference_mode()
    def put(self, slot: int, state: MambaState) -> None:
        """As in `DecodeSlots`."""
        for buffer, layers in zip(self._buffers, zip(*state, strict=True), strict=True):
            # one launch for all layers on a GPU
            torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
                buffer[:, slot].unbind(0), [layer[0] for layer in layers]
            )

    @torch.inference_mode()
    def take(self, slot: int) -> MambaState:
        """As in `DecodeSlots`."""
        return state_of([buffer[:, slot : slot + 1].clone() for buffer in self._buffers])

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """As in `DecodeSlots`."""
        for buffer in self._buffers:
            buffer[:, target] = buffer[:, source]

    def step(self, x: Tensor) -> Tensor:
        """As in `DecodeSlots`."""
        conv, ssm = (buffer[:, : len(x)] for buffer in self._buffers)
        return self._step(x, (conv, ssm))
