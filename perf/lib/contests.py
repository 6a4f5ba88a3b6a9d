"""How contestants are run: the backend, forward or training, the matrix products alone, and whether results agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from perf.lib.tables import Run
from torch import Tensor, nn

from vlm_core.numerics.low_precision_matmul import upcast_matmul
from vlm_ssm.backends import VARIABLE

T = TypeVar("T")


def on(backend: str, run: Callable[[], T]) -> Callable[[], T]:
    """Our operations on this backend."""

    def chosen() -> T:
        os.environ[VARIABLE] = backend
        return run()

    return chosen


def as_in_vlm(like: Tensor, run: Callable[[], Any]) -> Callable[[], Any]:
    """Products as `VLM` makes them for inputs of this dtype: bf16 goes through fp32 where the CPU has none."""

    def chosen() -> Any:
        with upcast_matmul(like):
            return run()

    return chosen


def inference(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return torch.no_grad()(run)


def training(run: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Run:
    """Forward and backward, to the gradient of every leaf."""
    grad_output: list[Tensor] = []

    def step() -> tuple[Tensor, ...]:
        y = run()
        if not grad_output:
            grad_output.append(torch.randn_like(y))
        return torch.autograd.grad(y, leaves, grad_output[0])

    return step


def matrices(model: nn.Module) -> list[Tensor]:
    """Of all linear layers, in order."""
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Linear)]


def products(weights: Sequence[tuple[int, Tensor]], backward: bool = False) -> Run:
    """The floor: for each (tokens, weight) the product alone, with `backward` also those of its two gradients."""
    sizes = {(tokens, n, w.dtype) for tokens, w in weights for n in w.shape}
    rows = {size: torch.randn(size[:2]).to(size[2]) for size in sizes}

    def run() -> None:
        for tokens, w in weights:
            x, y = (rows[tokens, n, w.dtype] for n in (w.shape[1], w.shape[0]))
            F.linear(x, w)
            if backward:
                F.linear(y, w.t())
                F.linear(y.t(), x.t())

    return cast(Run, torch.no_grad()(run))


def agree(ours: Tensor, theirs: Tensor, within: float) -> None:
    """Contestants do the same work: stop if the relative L2 difference of their outputs is larger than this."""
    if (difference := error(ours, theirs)) > within:
        raise SystemExit(f"the contestants' outputs differ by {difference:.1e}, more than {within:.0e}")


def error(value: Tensor, truth: Tensor) -> float:
    """Relative L2."""
    return ((value.double() - truth.double()).norm() / truth.double().norm()).item()
