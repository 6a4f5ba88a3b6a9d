"""Functions on tensors of fixed shapes as CUDA graphs: the same launches, without the time that issuing them takes."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlm_core.numerics.graph_fingerprint import Fingerprint

_log = logging.getLogger(__name__)
SPARE_BYTES = 2**30
"""For one sequence of a 2.8B, 20 graphs of a prefill: those of all lengths up to 512."""
Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


def usable(*inputs: Tensor) -> bool:
    """Whether calls on these can be graphs at all: on the current CUDA device, without gradients, autocast, tracing."""
    return (
        all(t.is_cuda and t.device.index == torch.cuda.current_device() for t in inputs)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
    )


def settings() -> tuple[Any, ...]:
    """What else decides which kernels a graph has: the backend of state-space layers, and torch's switches."""
    matmul = torch.backends.cuda.matmul
    return (
        os.environ.get("VLM_SCAN_BACKEND"),
        matmul.fp32_precision,
        matmul.allow_bf16_reduced_precision_reduction,
        torch.are_deterministic_algorithms_enabled(),
    )


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """Capture what runs inside. No garbage is collected meanwhile: freeing another graph would end the capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            yield
    except RuntimeError:
        _leave_capture()
        raise
    finally:
        if collects:
            gc.enable()


def _leave_capture() -> None:
    """After a capture that failed torch's random numbers are still those of a capture; one that succeeds ends that."""
    with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        torch.zeros(1, device="cuda")


def refused(what: str, error: RuntimeError) -> None:
    """Say why something is no graph: it makes the host wait, or allocates in a way that can't be captured."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    _log.warning("%s can't be a CUDA graph: %s; it is launched call by call", what, lines[0])


class Captured(NamedTuple):
    """What runs a function again, the tensors that it then fills, and the memory that its graph uses."""

    replay: Callable[[], None]
    outputs: Tensors
    pool: Any


def capture(run: Callable[[], Tensors], pool: Any) -> Captured:
    """Run once, as libraries allocate memory then; capture in the memory of earlier graphs, None if there is none."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph, pool = torch.cuda.CUDAGraph(), pool or torch.cuda.graph_pool_handle()
    with capturing(graph, pool):
        outputs = run()
    return Captured(graph.replay, outputs, pool)


class _Graph(NamedTuple):
    inputs: Tensors
    captured: Captured
    fingerprint: list[int]

    @property
    def nbytes(self) -> int:
        """Of inputs and outputs, which no other graph shares."""
        return sum(t.nbytes for t in (*self.inputs, *self.captured.outputs))


class CudaGraphs:
    """Calls as CUDA graphs, captured at their second call: a single call doesn't pay for it.

    There is one for each set of shapes and `settings`. The `limit` graphs used last are kept, and more of them while
    the inputs and outputs of all take up to `spare_bytes`; they share their other memory. Results equal those of the
    function bit by bit. Copies of this object are empty: a copied model has other weights.
    """

    def __init__(self, limit: int = 8, spare_bytes: int = SPARE_BYTES) -> None:
        self.limit, self.spare_bytes = limit, spare_bytes
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._called: OrderedDict[Any, None] = OrderedDict()  # once, without a graph
        self._refused: set[Any] = set()  # what can't be captured
        self._fingerprint = Fingerprint()
        self._lock = threading.RLock()
        self._pool: Any = None
        self._done: Any = None  # the end of the last call: graphs that share memory must not overlap

    def __reduce__(self) -> tuple[Any, ...]:
        return CudaGraphs, (self.limit, self.spare_bytes)

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaGraphs:
        return CudaGraphs(self.limit, self.spare_bytes)

    def __len__(self) -> int:
        return len(self._graphs)

    def call(self, function: Function, modules: Sequence[nn.Module], *inputs: Tensor) -> Tensors:
        """`function(*inputs)`, which calls `modules`; the outputs belong to the caller."""
        if not usable(*inputs):
            return function(*inputs)
        key = (function.__qualname__, settings(), *((t.shape, t.dtype, t.device) for t in inputs))
        with self._lock, torch.inference_mode(False), torch.no_grad():
            graph = self._graph(key, function, modules, inputs)
            if graph is not None:
                return self._replayed(graph, inputs)
        return function(*inputs)

    def _graph(
        self, key: Any, function: Function, modules: Sequence[nn.Module], inputs: Tensors
    ) -> _Graph | None:
        """The graph of these shapes; None if the function is to be called instead."""
        now = None if key in self._refused else self._fingerprint.of(modules)
        if now is None:
            return None
        graph = self._graphs.pop(key, None)
        if graph is not None and graph.fingerprint != now:
            self._graphs.clear()
            graph = None
        elif graph is None and key not in self._called:
            self._called[key] = None
            while len(self._called) > 16 * self.limit:
                self._called.popitem(last=False)
            return None
        if graph is None and (graph := self._captured(key, function, inputs, now)) is not None:
            self._drop_oldest(graph.nbytes)
        if graph is not None:
            self._graphs[key] = graph
        return graph

    def _drop_oldest(self, nbytes: int) -> None:
        """Make room for a graph."""
        nbytes += sum(graph.nbytes for graph in self._graphs.values())
        while len(self._graphs) >= self.limit and nbytes > self.spare_bytes:
            nbytes -= self._graphs.popitem(last=False)[1].nbytes

    def _captured(self, key: Any, function: Function, inputs: Tensors, now: list[int]) -> _Graph | None:
        own = tuple(t.clone() for t in inputs)
        try:
            captured = capture(lambda: function(*own), self._pool)
        except RuntimeError as error:
            self._refused.add(key)
            refused(key[0], error)
            return None
        self._pool = captured.pool
        return _Graph(own, captured, now)

    def _replayed(self, graph: _Graph, inputs: Tensors) -> Tensors:
        on_gpu = inputs[0].is_cuda
        if on_gpu and self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)
        for own, new in zip(graph.inputs, inputs, strict=True):
            own.copy_(new)
        graph.captured.replay()
        outputs = tuple(t.clone() for t in graph.captured.outputs)
        if on_gpu:
            self._done = torch.cuda.current_stream().record_event()
        return outputs
