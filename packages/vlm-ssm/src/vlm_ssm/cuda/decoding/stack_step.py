"""One token through a whole stack of layers in one launch, whose blocks stay on the GPU for all layers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.decoding.launches import launch_resident
from vlm_ssm.cuda.launch import Kernel, kernel
from vlm_ssm.mamba_layer import MambaLayer, MambaStack

SEQUENCES, LAYERS = 16, 256
"""At most. Addresses of all layers are arguments of the kernel, which may have 32,764 bytes."""
COMPARED = frozenset({(2560, 5120, 160, 4)})
"""Widths M and E, rank and window of layers whose steps were compared with those of separate launches, on an H200."""
WIDEST = 2560
"""The widest model: a warp holds a share of a row in registers."""
_CHUNK = 1280
_STATES, _GROUP, _COLUMNS, _THREADS, _TURNS, _UNWRITTEN = 16, 8, 32, 384, 4, -1  # as in stack_sizes.cuh


class Gpu(NamedTuple):
    """Multiprocessors, and bytes of shared memory that a block may have."""

    blocks: int
    shared: int

    def why_too_small(self) -> str | None:
        if self.blocks < 100 or self.shared < 200 * 1024:
            return f"a GPU of {self.blocks} multiprocessors with {self.shared} bytes of shared memory"
        return None


@cache
def gpu_of(device: int) -> Gpu | None:
    """None before compute capability 9.0, which has bulk copies into shared memory."""
    properties = torch.cuda.get_device_properties(device)
    new = properties.major >= 9
    return Gpu(properties.multi_processor_count, properties.shared_memory_per_block_optin) if new else None


def _sizes(mixer: MambaLayer) -> tuple[int, int, int]:
    return mixer.d_inner, mixer.dt_rank, mixer.d_conv


def why_not_covered(x: Tensor, stack: MambaStack) -> str | None:
    """Why a step x (B, 1, M) of layers that `step.why_not_covered` accepts goes product by product, or None."""
    gpu, (inner, rank, _) = gpu_of(x.device.index), _sizes(stack.mixers[0])
    if gpu is None:
        return "a GPU before compute capability 9.0"
    if small := gpu.why_too_small():
        return small
    if stack.last_norm is None or any(norm is None for norm in stack.norms):
        return "a layer without norms"
    if any(_sizes(mixer) != _sizes(stack.mixers[0]) for mixer in stack.mixers) or len(stack.mixers) > LAYERS:
        return f"layers of several sizes, or more than {LAYERS}"
    if (x.shape[-1], *_sizes(stack.mixers[0])) not in COMPARED:
        return f"widths of {x.shape[-1]} and {inner}, whose steps were not compared yet"
    assert _fits(x.shape[-1], inner, rank, gpu.blocks)
    return f"{len(x)} sequences" if len(x) > SEQUENCES else None


def _fits(width: int, inner: int, rank: int, blocks: int) -> bool:
    """Whether the kernel can be compiled for these sizes, and each block has channels: one without would run ahead."""
    chunks = all(n % (_COLUMNS * -(-n // _CHUNK)) == 0 for n in (width, inner))
    low = (rank + 2 * _STATES) // _GROUP
    return chunks and max(width, inner / 2) <= WIDEST and low <= blocks <= inner // _GROUP


def _addresses(mixer: MambaLayer, norm: Tensor, states: Sequence[Tensor]) -> list[int]:
    """The fields of `Layer` in stack_sizes.cuh."""
    # dictionaries: attribute access on modules takes long
    modules: dict[str, Any] = dict(mixer._modules)
    parameters = mixer._parameters
    conv, dt = modules["conv1d"]._parameters, modules["dt_proj"]._parameters
    weights = {name: modules[name]._parameters["weight"] for name in ("in_proj", "x_proj", "out_proj")}
    tensors = [norm, weights["in_proj"], conv["weight"], conv["bias"], weights["x_proj"], dt["weight"]]
    tensors += [weights["out_proj"], dt["bias"], parameters["A_log"], parameters["D"], *states]
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _kernel(batch: int, width: int, stack: MambaStack, gpu: Gpu) -> Kernel:
    inner, rank, taps = _sizes(stack.mixers[0])
    sizes = {"M": width, "E": inner, "RANK": rank, "TAPS": taps, "LAYERS": len(stack.mixers)}
    slots = 8 if batch <= 8 else SEQUENCES
    return kernel("stack_step.cu", "stack_step", **sizes, SLOTS=slots, GRID=gpu.blocks, SHARED=gpu.shared)


def _splits(inner: int, low: int, blocks: int) -> int:
    """SPLITS in stack_sizes.cuh: parts of the columns of x_proj, as many as there are blocks for."""
    most, columns = blocks // (low // _GROUP), inner // _COLUMNS
    return max(n for n in range(1, most + 1) if columns % n == 0)


def step(
    x: Tensor,
    stack: MambaStack,
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    after: tuple[Tensor, Tensor],
) -> Tensor:
    """x (B, 1, M) -> (B, 1, M). Check `why_not_covered` first.

    The states of each layer go from `convs` and `ssms` to `after`, which may be the same memory.
    """
    (B, _, M), (E, rank, _), gpu = x.shape, _sizes(stack.mixers[0]), gpu_of(x.device.index)
    assert gpu is not None
    assert stack.last_norm is not None
    x, low = x.contiguous(), rank + 2 * _STATES
    out = torch.empty_like(x)
    # of 4 bytes each: what blocks write for each other, and counters
    sizes = [_TURNS * B * n for n in (E // 2, E // 2, M, M // _GROUP, _splits(E, low, gpu.blocks) * low)] + [
        4 * 32
    ]
    exchange = torch.full((sum(sizes),), _UNWRITTEN, dtype=torch.int32, device=x.device).split(sizes)
    addresses = [tensor.data_ptr() for tensor in (x, stack.last_norm, out, *exchange)]
    (eps,) = struct.unpack("<I", struct.pack("<f", stack.eps))
    layers: list[int] = []
    for i, (mixer, norm) in enumerate(zip(stack.mixers, stack.norms, strict=True)):
        assert norm is not None
        layers += _addresses(mixer, norm, (convs[i], after[0][i], ssms[i], after[1][i]))
    run = _kernel(B, M, stack, gpu)
    launch_resident(run, gpu.blocks, _THREADS, gpu.shared, x.device.index, [[*addresses, B, eps], layers])
    return out
