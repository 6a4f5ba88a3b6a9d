"""Decoding as a CUDA graph: one launch a token, which ends with the choice of the next id."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from vlm_core.interfaces import Sampler
from vlm_core.numerics.cuda_graphs import capturing, refused, settings
from vlm_core.numerics.graph_fingerprint import Fingerprint

Buffers = tuple[Tensor, Tensor]
"""Convolution and recurrent states of all layers."""
DecodeToken = Callable[[Tensor, Buffers, Buffers], Tensor]
"""Ids (B), the state before and memory for the state after them -> logits (B, V)."""


class CudaGraphDecoder:
    """`vlm_core.interfaces.GraphDecoder` of a model whose state has a constant size; its weights must not move.

    There are two states, and a graph for each direction between them: the state before the last step is kept. Outputs
    have memory of their own, since graphs that share their memory overwrite each other's.
    """

    def __init__(
        self,
        decode_token: DecodeToken,
        sampler: Sampler,
        buffers: Buffers,
        vocabulary: int,
        dtype: torch.dtype,
        state_of: Callable[[Sequence[Tensor]], Any],
    ) -> None:
        """`buffers`: states of the right shape and device; `vocabulary` and `dtype`: of the logits."""
        self._decode_token, self._sampler, self._state_of = decode_token, sampler, state_of
        batch, device = buffers[0].shape[1], buffers[0].device
        self._generator, self._last = Generator(device), 0
        self.on_close: Callable[[CudaGraphDecoder], None] = lambda _: None
        with torch.inference_mode():
            self._states = [
                (torch.zeros_like(conv), torch.zeros_like(ssm)) for conv, ssm in (buffers, buffers)
            ]
            self._logits = torch.zeros(2, batch, vocabulary, dtype=dtype, device=device)
            self._ids = torch.zeros(batch, dtype=torch.long, device=device)
            self._chosen = torch.zeros(2, batch, dtype=torch.long, device=device)
            self._read = torch.zeros(
                2, batch, dtype=torch.long, device="cpu", pin_memory=device.type == "cuda"
            )
            self._replay = self._capture()

    def _run(self, last: int) -> None:
        """A step that starts from state `last` and ends with the other one."""
        after = 1 - last
        logits = self._logits[after]
        logits.copy_(self._decode_token(self._ids, self._states[last], self._states[after]))
        chosen = self._sampler(logits, self._generator)
        self._chosen[after].copy_(chosen)
        self._ids.copy_(chosen.clamp(min=0))  # -1 is no id

    def _capture(self) -> list[Callable[[], None]]:
        """What runs a step from each of the two states."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled and libraries allocate memory
            for last in (0, 1):
                self._run(last)
        torch.cuda.current_stream().wait_stream(side)
        pool, graphs = torch.cuda.graph_pool_handle(), []
        for last in (0, 1):
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._generator)
            with capturing(graph, pool):
                self._run(last)
            graphs.append(graph)
        return [graph.replay for graph in graphs]

    @torch.inference_mode()
    def start(self, state: Any, ids: Tensor, generator: Generator) -> None:
        """As in `GraphDecoder`."""
        self._last = 0
        for buffer, layers in zip(self._states[0], zip(*state, strict=True), strict=True):
            torch.stack([t.to(buffer.dtype) for t in layers], out=buffer)
        self._ids.copy_(ids)
        self._generator.set_state(generator.get_state())

    @torch.inference_mode()
    def step(self) -> Callable[[], list[int]]:
        """As in `GraphDecoder`."""
        self._replay[self._last]()
        self._last = 1 - self._last
        numbers = self._read[self._last]
        numbers.copy_(self._chosen[self._last], non_blocking=True)
        done = torch.cuda.Event() if numbers.is_pinned() else None
        if done is not None:
            done.record()

        def read() -> list[int]:
            if done is not None:
                done.synchronize()
            return numbers.tolist()

        return read

    def _index(self, ahead: bool) -> int:
        return 1 - self._last if ahead else self._last

    @torch.inference_mode()
    def logits(self, *, ahead: bool) -> Tensor:
        """As in `GraphDecoder`."""
        return self._logits[self._index(ahead)].clone()

    @torch.inference_mode()
    def state(self, *, ahead: bool) -> Any:
        """As in `GraphDecoder`."""
        return self._state_of([buffer.clone() for buffer in self._states[self._index(ahead)]])

    def close(self) -> None:
        """As in `GraphDecoder`."""
        self.on_close(self)


class IdleDecoders:
    """Decoders between two answers; the `limit` used last are kept. Copies of this object are empty."""

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self._idle: list[tuple[Any, list[int], CudaGraphDecoder]] = []
        self._refused: set[Any] = set()
        self._fingerprint = Fingerprint()
        self._lock = threading.Lock()  # two answers must not get the same decoder

    def __reduce__(self) -> tuple[Any, ...]:
        return IdleDecoders, (self.limit,)

    def __deepcopy__(self, memo: dict[int, Any]) -> IdleDecoders:
        return IdleDecoders(self.limit)

    def take(
        self, key: Any, modules: Sequence[nn.Module], make: Callable[[], CudaGraphDecoder]
    ) -> CudaGraphDecoder | None:
        """An idle decoder of this key, or a new one, until its `close`; None if it can't be captured.

        Decoders of weights that have moved are dropped.
        """
        now, key = self._fingerprint.of(modules), (key, settings())
        if now is None or key in self._refused:
            return None
        if (idle := self._take_idle(key, now)) is not None:
            return idle
        try:
            decoder = make()
        except RuntimeError as error:
            self._refused.add(key)
            refused("decoding", error)
            return None
        decoder.on_close = partial(self._give_back, key, now)
        return decoder

    def _take_idle(self, key: Any, now: list[int]) -> CudaGraphDecoder | None:
        with self._lock:
            self._idle = [entry for entry in self._idle if entry[1] == now]
            for i, (other, _, decoder) in enumerate(self._idle):
                if other == key:
                    del self._idle[i]
                    return decoder
        return None

    def _give_back(self, key: Any, now: list[int], decoder: CudaGraphDecoder) -> None:
        with self._lock:
            self._idle = [*self._idle, (key, now, decoder)][-self.limit :]
