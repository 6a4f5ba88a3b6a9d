"""The inputs of scan and convolution as one value each, and their schema for `torch.library`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_type_hints

import torch
from torch import Tensor

from vlm_ssm.segments import SegmentBoundaries, boundaries_from

Kernels = TypeVar("Kernels")


class ScanInputs(NamedTuple):
    """Inputs of a selective scan, on every backend; `ops.scan` gives their shapes."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    bias: Tensor | None = None
    z: Tensor | None = None
    h0: Tensor | None = None
    reset: Tensor | None = None
    scan_order: Tensor | None = None
    softplus: bool = False
    keep_directions: bool = False


class ScanGradients(NamedTuple):
    """What a scan's backward is given besides `ScanInputs`.

    `grad_out` (B, T, J, E) and `grad_last` (K, B, E, S), None for zeros: gradients of what the forward returned. `acc`,
    `starts`: what it kept, as in `ScanKernels`. Memory to write to, if given: `grad_z`, like z, of any strides, takes
    the gradient of z; `y` (B, T, J, E), contiguous, takes what the forward returned.
    """

    grad_out: Tensor
    grad_last: Tensor | None
    acc: Tensor | None
    starts: Tensor
    grad_z: Tensor | None = None
    y: Tensor | None = None


class ConvInputs(NamedTuple):
    """Inputs of a convolution, on every backend; `ops.conv` gives their shapes, but `weight` is (P, W, E).

    `reset`, `history` and `left_pad` as in `SegmentBoundaries`: all three or none.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    state: Tensor | None = None
    reset: Tensor | None = None
    history: Tensor | None = None
    left_pad: Tensor | None = None
    scan_order: Tensor | None = None


def directions_of(inputs: ConvInputs) -> int:
    """K: the number of scan orders; without them, J of x (B, T, J, E). torch 2.9 could not compile a property."""
    return inputs.x.shape[2] if inputs.scan_order is None else len(inputs.scan_order)


def boundaries_of(inputs: ConvInputs) -> SegmentBoundaries | None:
    """The boundaries of a convolution's segments; a function for the same reason."""
    return boundaries_from(inputs.reset, inputs.history, inputs.left_pad)


def for_all_inputs(kernels: Kernels) -> Callable[..., Kernels]:
    """What chooses a library's kernels by their inputs, for one whose kernels compute every case."""
    return lambda *_: kernels


_KINDS = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    bool: "bool",
    float: "float",
    str: "str",
    torch.dtype: "ScalarType",
}


def schema(kind: Any, prefix: str = "") -> str:
    """The fields of a NamedTuple in the syntax of `torch.library`: "Tensor u, Tensor? D, bool softplus"."""
    return ", ".join(f"{_KINDS[hint]} {prefix}{name}" for name, hint in get_type_hints(kind).items())
