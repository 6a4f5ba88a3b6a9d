"""One token through a whole stack of layers in one launch, whose blocks stay on the GPU for all layers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.decoding.launches import launch_cooperative
from vlm_ssm.cuda.launch import Kernel, kernel
from vlm_ssm.cuda.memory import aligned
from vlm_ssm.mamba_layer import MambaLayer, MambaStack

MOST_SEQUENCES, MOST_LAYERS = 16, 256
"""Addresses of all layers are arguments of the kernel, which may have 32,764 bytes."""
VERIFIED = frozenset({(2560, 5120, 160, 4, 132)})
"""Widths M and E, rank and window of layers, and multiprocessors of the GPU, for which steps were compared with those
of separate launches (H200). Others compile other loops, and wait for whoever compares them."""
_THREADS, _TURNS, _UNWRITTEN = 384, 4, -1  # as in stack_sizes.cuh


class Gpu(NamedTuple):
    """Multiprocessors, and bytes of shared memory that a block may have."""

    blocks: int
    shared: int


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
    gpu, inner = gpu_of(x.device.index), stack.mixers[0].d_inner
    if gpu is None:
        return "a GPU before compute capability 9.0"
    if stack.last_norm is None or any(norm is None for norm in stack.norms):
        return "a layer without norms"
    if (
        any(_sizes(mixer) != _sizes(stack.mixers[0]) for mixer in stack.mixers)
        or len(stack.mixers) > MOST_LAYERS
    ):
        return f"layers of several sizes, or more than {MOST_LAYERS}"
    if (x.shape[-1], *_sizes(stack.mixers[0]), gpu.blocks) not in VERIFIED:
        return f"widths of {x.shape[-1]} and {inner} on {gpu.blocks} multiprocessors, which were not compared yet"
    return f"{len(x)} sequences" if len(x) > MOST_SEQUENCES else None


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
    slots = 8 if batch <= 8 else MOST_SEQUENCES
    return kernel("stack_step.cu", "stack_step", **sizes, SLOTS=slots, GRID=gpu.blocks, SHARED=gpu.shared)


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
    (B, _, M), E, gpu = x.shape, stack.mixers[0].d_inner, gpu_of(x.device.index)
    assert gpu is not None
    x = aligned(x.contiguous())
    names = ("u", "y", "residual", "squares", "low", "counters")
    # of 4 bytes each: what blocks write for each other, and counters; x_proj has 8 rows a block at most
    sizes = [_TURNS * B * n for n in (E // 2, E // 2, M, M // 8, 8 * gpu.blocks)] + [4 * 32]
    exchange = torch.full((sum(sizes),), _UNWRITTEN, dtype=torch.int32, device=x.device).split(sizes)
    out = torch.empty_like(x)
    (eps,) = struct.unpack("<I", struct.pack("<f", stack.eps))
    tensors = {"x": x, "last_norm": stack.last_norm, "out": out, **dict(zip(names, exchange, strict=True))}
    values = {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}
    values |= {"B": B, "eps": eps}
    layers: list[int] = []
    for i, (mixer, norm) in enumerate(zip(stack.mixers, stack.norms, strict=True)):
        assert norm is not None
        layers += _addresses(mixer, norm, (convs[i], after[0][i], ssms[i], after[1][i]))
    run = _kernel(B, M, stack, gpu)
    arguments = [[values[name] for name in run.names], layers]
    launch_cooperative(run, gpu.blocks, _THREADS, gpu.shared, x.device.index, arguments)
    return out
