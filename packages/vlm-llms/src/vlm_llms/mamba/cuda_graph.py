"""Decoding as a CUDA graph: one launch a token, with the state updated in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP = 2  # runs before the capture, in which kernels are compiled and libraries allocate memory


class CudaGraphDecoder:
    """One token a call. The model's weights must not move in memory.

    `decode_token(ids (B)) -> logits (B, V)` reads the state from `buffers` and leaves the next one there;
    `state_of(buffers)` builds the model's state from them.
    """

    def __init__(
        self,
        decode_token: Callable[[Tensor], Tensor],
        buffers: Sequence[Tensor],
        state_of: Callable[[Sequence[Tensor]], Any],
    ) -> None:
        self._decode_token, self._buffers, self._state_of = decode_token, tuple(buffers), state_of
        batch, device = buffers[0].shape[1], buffers[0].device
        self.ids = torch.zeros(batch, dtype=torch.long, device=device)
        before = [buffer.clone() for buffer in self._buffers]
        self.graph, self.logits = self._capture()
        for buffer, saved in zip(self._buffers, before, strict=True):
            buffer.copy_(saved)

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Warm up, which changes the buffers, then capture, which runs nothing."""
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UP):
                self._decode_token(self.ids)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._decode_token(self.ids)
        return graph, logits

    def __call__(self, ids: Tensor) -> Tensor:
        """Ids (B) -> logits (B, V), which the next call overwrites."""
        self.ids.copy_(ids)
        self.graph.replay()
        return self.logits

    def state(self) -> Any:
        """A copy of the state after the last token."""
        return self._state_of([buffer.clone() for buffer in self._buffers])
