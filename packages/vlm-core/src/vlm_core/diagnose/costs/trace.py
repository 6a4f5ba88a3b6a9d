"""Counts FLOPs and the bytes that autograd saves, by running modules on fake tensors.

Fake tensors have shape, dtype, strides and device, so autocast, attention and custom operations behave as in training,
without memory or computation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vlm_core.diagnose.costs.scan_backend import on_backend
from vlm_core.diagnose.costs.scan_flops import formulas

CPU = torch.device("cpu")


@dataclass
class Cost:
    """Forward and backward FLOPs, bytes of activations saved for the backward, and bytes of saved copies of weights.

    `recomputed`: forward FLOPs that activation checkpointing takes again.
    """

    forward: int = 0
    backward: int = 0
    activations: int = 0
    weight_copies: int = 0
    recomputed: int = 0

    @property
    def training(self) -> int:
        return self.forward + self.backward + self.recomputed


class Meter(TorchDispatchMode):
    """Counts the FLOPs of every operation, and records tensors that are casts of weights."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.flops, self.weights = 0, weights
        self.copies: dict[int, Any] = {}  # references to storages, so that their ids are not reused
        self._formulas: dict[Any, Callable[..., int]] = {**flop_registry, **formulas()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        if func is torch.ops.aten._to_copy.default and _storage(args[0]) in self.weights:
            self.copies[_storage(out)] = out.untyped_storage()
        return out


@dataclass
class SavedTensors:
    """Storages that autograd saves, without those of weights; each counts once."""

    weights: set[int]
    storages: dict[int, Any] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Tensor:
        if (key := _storage(tensor)) not in self.weights:
            self.storages[key] = tensor.untyped_storage()
        return tensor

    def bytes(self, among: Collection[int] | None = None) -> int:
        return sum(s.nbytes() for key, s in self.storages.items() if among is None or key in among)


@dataclass
class Checkpointing:
    """What activation checkpointing of `blocks` changes: each keeps its inputs, and one at a time the rest.

    `largest`: bytes that the backward of one block needs besides its inputs, of the block that needs most. `flops`: of
    the blocks' forward passes.
    """

    blocks: Collection[nn.Module]
    largest: int = 0
    flops: int = 0

    @contextmanager
    def of(self, saved: SavedTensors, meter: Meter) -> Iterator[None]:
        """Context in which `saved` gets no more than the inputs of a block."""
        for block in self.blocks:
            block.forward = partial(self._block, block.forward, saved, meter)
        try:
            yield
        finally:
            for block in self.blocks:
                del block.forward

    def _block(
        self, forward: Callable[..., Any], saved: SavedTensors, meter: Meter, *args: Any, **kwargs: Any
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                saved.pack(tensor)
        before, inside = meter.flops, SavedTensors(saved.weights)
        with torch.autograd.graph.saved_tensors_hooks(inside.pack, lambda tensor: tensor):
            out = forward(*args, **kwargs)
        self.flops += meter.flops - before
        own = inside.storages.keys() - saved.storages.keys() - meter.copies.keys()
        self.largest = max(self.largest, inside.bytes(own))
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Fakes:
    """Makes fake tensors, and replaces the tensors of modules on the meta device by fake ones."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)  # constants that modules create are real

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
        return self._of(torch.empty(*shape, dtype=dtype, device="meta")).requires_grad_(grad)

    def _of(self, meta: Tensor) -> Tensor:
        return self._mode.fake_tensor_converter.from_meta_and_device(self._mode, meta, CPU)

    def module(self, module: nn.Module) -> None:
        """Replace parameters and buffers on the meta device in place; shared ones stay shared."""
        done: dict[int, Tensor] = {}
        for inner in module.modules():
            for tensors in (inner._parameters, inner._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_meta:
                        tensors[name] = done.setdefault(id(tensor), self._fake(tensor))  # pyright: ignore

    def _fake(self, tensor: Tensor) -> Tensor:
        fake = self._of(tensor.detach())
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def measure(
    module: nn.Module,
    run: Callable[[], Tensor],
    *,
    bf16: bool = False,
    backward: bool = True,
    backend: str = "torch",
    checkpointed: Collection[nn.Module] = (),
) -> Cost:
    """The cost of `run`, which calls `module` on fake or real tensors, and of its backward if it has one.

    State-space layers run as on scan backend `backend`. The `checkpointed` blocks are computed again in the backward.
    """
    weights = {_storage(p) for p in module.parameters()}
    saved, cost, again = SavedTensors(weights), Cost(), Checkpointing(checkpointed)
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor)
    with on_backend(backend), Meter(weights) as meter, again.of(saved, meter), hooks, cast:
        out = run()
    cost.forward = meter.flops
    if out.requires_grad:
        cost.weight_copies = saved.bytes(meter.copies)
        cost.activations = saved.bytes() - cost.weight_copies + again.largest
        cost.recomputed = again.flops
        if backward:
            with on_backend(backend), Meter(weights) as meter:
                out.backward(torch.empty_like(out))
            cost.backward = meter.flops
    return cost


@contextmanager
def training_mode(module: nn.Module, on: bool) -> Iterator[None]:
    """Inside, the module is in training mode with gradients, or frozen."""
    module.requires_grad_(on)
    module.train(on)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.grad = None
