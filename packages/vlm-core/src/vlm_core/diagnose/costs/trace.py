"""Runs modules without memory or arithmetic and counts FLOPs and the bytes that autograd keeps.

Tensors are fake: they have shape, dtype, strides and a device, so autocast, attention and registered operations
behave as they do in training, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vlm_core.diagnose.costs.scan_flops import formulas

CPU = torch.device("cpu")


def _on_torch() -> AbstractContextManager[None]:
    """Inside, state-space layers run on plain torch, whose operations have FLOP formulas."""
    if find_spec("vlm_ssm") is None:
        return nullcontext()
    from vlm_ssm.backends import forced

    return forced("torch")


@dataclass
class Cost:
    """FLOPs forward and backward, the bytes kept for the backward, and those of them that copy weights."""

    forward: int = 0
    backward: int = 0
    activations: int = 0
    weight_copies: int = 0

    @property
    def training(self) -> int:
        return self.forward + self.backward


class Meter(TorchDispatchMode):
    """Counts the FLOPs of every operation, and remembers which tensors are weights in another precision."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.flops, self.weights = 0, weights
        self.copies: dict[int, Any] = {}  # holding a storage keeps its number from being used again
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
    """Storages that autograd keeps, weights themselves left out; each counts once, however many tensors share it."""

    weights: set[int]
    storages: dict[int, Any] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Tensor:
        if (key := _storage(tensor)) not in self.weights:
            self.storages[key] = tensor.untyped_storage()
        return tensor

    def bytes(self, among: Collection[int] | None = None) -> int:
        return sum(s.nbytes() for key, s in self.storages.items() if among is None or key in among)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Fakes:
    """Makes fake tensors, and fake modules from those on the meta device."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)  # constants that modules make are real

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
        return self._of(torch.empty(*shape, dtype=dtype, device="meta")).requires_grad_(grad)

    def _of(self, meta: Tensor) -> Tensor:
        return self._mode.fake_tensor_converter.from_meta_and_device(self._mode, meta, CPU)

    def module(self, module: nn.Module) -> None:
        """Replace the parameters and buffers on the meta device in place; what is shared stays shared."""
        done: dict[int, Tensor] = {}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor.is_meta:
                        held[name] = done.setdefault(id(tensor), self._fake(tensor))  # pyright: ignore

    def _fake(self, tensor: Tensor) -> Tensor:
        fake = self._of(tensor.detach())
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def measure(
    module: nn.Module, run: Callable[[], Tensor], *, bf16: bool = False, backward: bool = True
) -> Cost:
    """Call `run`, which uses `module` on fake or real tensors, and its backward if it has one."""
    weights = {_storage(p) for p in module.parameters()}
    kept, cost = SavedTensors(weights), Cost()
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()
    hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
    with _on_torch(), Meter(weights) as meter, hooks, cast:
        out = run()
    cost.forward = meter.flops
    if out.requires_grad:
        cost.weight_copies = kept.bytes(meter.copies)
        cost.activations = kept.bytes() - cost.weight_copies
        if backward:
            with _on_torch(), Meter(weights) as meter:
                out.backward(torch.empty_like(out))
            cost.backward = meter.flops
    return cost


@contextmanager
def training_mode(module: nn.Module, on: bool) -> Iterator[None]:
    """The module as a stage has it: in training mode with gradients, or frozen."""
    module.requires_grad_(on)
    module.train(on)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.grad = None
