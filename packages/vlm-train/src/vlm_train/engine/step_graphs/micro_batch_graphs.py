"""Forward and backward passes of micro-batches as CUDA graphs: one launch takes the place of thousands.

A model whose passes the GPU computes faster than Python issues them is bound by the host. On one GPU a micro-batch is
padded to one of a few shapes, and a shape that comes a second time is captured. Losses and gradients are equal, bit by
bit, to those of the padded micro-batch without a graph: the first graph of a run is compared with it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlm_core.numerics.cuda_graphs import capturing, refused
from vlm_core.text.batch import Batch
from vlm_train.distributed.base import DDPStrategy, bits
from vlm_train.engine.step_graphs.padded_batch import padded, positions

log = logging.getLogger(__name__)
MOST_WORK = 4e12
"""Positions of a micro-batch times weights of the language model: with more, the GPU takes longer than Python."""
MOST_GRAPHS = 32
"""That are kept; those used last."""
ROOM = 1.25
"""Free memory that a capture asks for, over what the same micro-batch took without a graph."""

Inputs = dict[str, Tensor]
Record = Callable[[Callable[[], Tensor], Any], tuple[Callable[[], None], Tensor, Any]]
"""Records a function in a memory pool -> its replay, the tensor that it returned, and the pool."""


def record(run: Callable[[], Tensor], pool: Any) -> tuple[Callable[[], None], Tensor, Any]:
    """As a CUDA graph."""
    graph, pool = torch.cuda.CUDAGraph(), pool or torch.cuda.graph_pool_handle()
    with capturing(graph, pool):
        loss = run()
    return graph.replay, loss, pool


class _Graph(NamedTuple):
    inputs: Inputs
    replay: Callable[[], None]
    loss: Tensor


class _Seen(NamedTuple):
    """What a micro-batch took without a graph, at most: bytes at the peak so far beyond those before."""

    nbytes: int


def why_not(strategy: DDPStrategy, module: nn.Module) -> str | None:
    """Why the micro-batches of a stage run without graphs; None if they don't."""
    device = strategy.accelerator.device
    if device.type != "cuda" or torch.version.hip is not None:
        return f"the device is {device.type}, not a GPU of CUDA"
    if strategy.sharded or strategy.accelerator.num_processes > 1:
        return "several processes exchange gradients during a backward pass"
    return why_not_fixed(module)


def why_not_fixed(module: nn.Module) -> str | None:
    """Why a graph would leave out what a module does in Python, or repeat what must differ; None if it wouldn't."""
    for name, child in module.named_modules():
        own = child.__dict__
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if any(own[hook] for hook in hooks):
            return f"{name} has hooks"
        if "forward" in own and name:  # accelerate gives the outermost module one that casts
            return f"{name} has another forward, as with activation_checkpointing"
        if child.training and getattr(child, "running_mean", None) is not None:
            return f"{name} has running statistics"
    return None


class MicroBatchGraphs:
    """Graphs of one stage's micro-batches, by shapes; `recorder` is for tests without a GPU."""

    def __init__(
        self, strategy: DDPStrategy, module: nn.Module, recorder: Record = record, limit: int = MOST_GRAPHS
    ) -> None:
        self.strategy, self.module, self.limit, self._record = strategy, module, limit, recorder
        self._params = [p for p in module.parameters() if p.requires_grad]
        self._weights = sum(p.numel() for p in strategy.unwrapped(module).model.llm.parameters())
        self._grads: list[Tensor] = []  # of all parameters, written by every graph
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._seen: dict[Any, _Seen] = {}
        self._pool: Any = None
        self._addresses: list[int] = []
        self._refused = False

    def __len__(self) -> int:
        return len(self._graphs)

    def takes(self, batches: Sequence[Batch]) -> bool:
        """Whether these micro-batches are padded and may be graphs."""
        return all(batch.input_ids.numel() * self._weights <= MOST_WORK for batch in batches)

    def positions(self, batches: Sequence[Batch]) -> int:
        """Positions of these micro-batches as they are computed, padding included."""
        if not self.takes(batches):
            return sum(batch.input_ids.numel() for batch in batches)
        return sum(len(batch.input_ids) * positions(batch.input_ids.shape[1]) for batch in batches)

    def backward(self, batches: Sequence[Batch], targets: int) -> Tensor:
        """Add the gradients of all micro-batches of a step -> their summed loss."""
        addresses = [t.data_ptr() for t in (*self.module.parameters(), *self.module.buffers())]
        if addresses != self._addresses:
            self._forget()
            self._addresses = addresses
        scale = torch.full((), float(targets), device=batches[0].input_ids.device)
        total = torch.zeros((), device=scale.device)
        for i, batch in enumerate(batches):
            total += self._micro_batch(_inputs(batch, scale), fresh=i == 0)
        return total

    def _forget(self) -> None:
        self._graphs.clear()
        self._seen.clear()
        self._grads, self._pool = [], None

    def _micro_batch(self, inputs: Inputs, *, fresh: bool) -> Tensor:
        """Loss of a micro-batch whose gradients replace (`fresh`) or are added to those that there are."""
        shapes = tuple((name, t.shape, t.dtype) for name, t in inputs.items())
        key = (shapes, fresh)
        if torch._C._len_torch_dispatch_stack():  # such as a count of FLOPs, which sees no replay
            return self._without_graph(key, inputs, fresh=fresh)
        graph = self._graphs.pop(key, None)
        if graph is None and not self._refused and key in self._seen and self._has_room(self._seen[key]):
            graph = self._captured(inputs, fresh=fresh)
        if graph is None:
            return self._without_graph(key, inputs, fresh=fresh)
        self._graphs[key] = graph
        while len(self._graphs) > self.limit:
            self._graphs.popitem(last=False)
        for name, own in graph.inputs.items():
            own.copy_(inputs[name])
        self._give_gradients()
        graph.replay()
        return graph.loss.clone()

    def _without_graph(self, key: Any, inputs: Inputs, *, fresh: bool) -> Tensor:
        on_gpu = inputs["scale"].is_cuda
        before = torch.cuda.memory_allocated() if on_gpu else 0
        if self._grads and fresh:
            _zero(self._grads)
        if self._grads:
            self._give_gradients()
        loss = self._passes(inputs)
        self._seen[key] = _Seen(torch.cuda.max_memory_allocated() - before if on_gpu else 0)
        return loss

    def _passes(self, inputs: Inputs) -> Tensor:
        """Forward and backward pass; gradients go where they are, or become new tensors."""
        rest = {field.name: inputs.get(field.name) for field in fields(Batch)}
        batch = Batch(**rest)  # pyright: ignore[reportArgumentType]
        loss = self.strategy.loss(self.module, batch, inputs["counted"])
        if loss.requires_grad:
            self.strategy.backward(self.module, loss / inputs["scale"])
        return loss.detach()

    def _give_gradients(self) -> None:
        for parameter, grad in zip(self._params, self._grads, strict=True):
            parameter.grad = grad

    def _captured(self, inputs: Inputs, *, fresh: bool) -> _Graph | None:
        """The graph of these shapes; None if there is none (yet)."""
        if not self._grads and not fresh:
            return None  # the first graph makes the gradients
        own = {name: t.clone() for name, t in inputs.items()}
        try:
            return self._another(own, fresh=fresh) if self._grads else self._first_graph(own)
        except RuntimeError as error:
            self._refused = True
            refused("a micro-batch", error)
            return None

    def _another(self, own: Inputs, *, fresh: bool) -> _Graph:
        def run() -> Tensor:
            if fresh:
                _zero(self._grads)
            return self._passes(own)

        self._give_gradients()
        replay, loss, self._pool = self._recorded(run)
        return _Graph(own, replay, loss)

    def _first_graph(self, own: Inputs) -> _Graph | None:
        """A graph whose backward pass makes the gradients of all parameters, in memory that later graphs write to.

        It is compared with the same passes without a graph.
        """
        random = _random_states()
        expected = self._passes_from_none(own), [p.grad for p in self._params]
        if any(
            grad is None for grad in expected[1]
        ):  # none gets lost: all are made here, and each graph adds
            self._grads = [torch.zeros_like(p) for p in self._params]
            return self._another(own, fresh=True)
        digests = _digests(expected[0], self._params)
        drawn = any(not torch.equal(a, b) for a, b in zip(random, _random_states(), strict=True))
        del expected
        replay, loss, self._pool = self._recorded(lambda: self._passes_from_none(own))
        self._grads = [p.grad for p in self._params if p.grad is not None]
        replay()
        if drawn or not torch.equal(digests, _digests(loss, self._params)):
            why = "draws random numbers" if drawn else "has other gradients as a CUDA graph"
            log.warning("a micro-batch %s: micro-batches are launched call by call", why)
            self._refused, self._grads = True, []
            for parameter in self._params:
                parameter.grad = None
            return None
        return _Graph(own, replay, loss)

    def _recorded(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor, Any]:
        """Each weight is cast once: the backward pass reads the copies of the forward pass."""
        with self.strategy.weights_cast_once():
            return self._record(run, self._pool)

    def _passes_from_none(self, inputs: Inputs) -> Tensor:
        for parameter in self._params:
            parameter.grad = None
        return self._passes(inputs)

    def _has_room(self, seen: _Seen) -> bool:
        if not torch.cuda.is_available():
            return True
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0] >= ROOM * seen.nbytes


def _inputs(batch: Batch, scale: Tensor) -> Inputs:
    """The padded batch, which of its targets count, and the number of targets of the step."""
    batch, counted = padded(batch)
    given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    return {name: t for name, t in given.items() if t is not None} | {"counted": counted, "scale": scale}


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state()] if torch.cuda.is_available() else states


def _digests(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The bits of a loss and of all gradients."""
    return torch.stack([bits(t) for t in (loss, *(p.grad for p in parameters if p.grad is not None))])


def _zero(tensors: list[Tensor]) -> None:
    """In as few launches as torch's optimizers need."""
    torch._foreach_zero_(tensors)  # pyright: ignore[reportPrivateImportUsage]
