"""One token through a whole stack of layers in one launch, whose blocks stay on the GPU for all layers."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from vlm_ssm.cuda.launch import Kernel, kernel, make_current
from vlm_ssm.mamba_layer import MambaLayer, MambaStack

SEQUENCES = 16
WIDEST = 2560
"""Columns of a stage of weights: the widest model."""
STAGES = 200 * 1024
"""Bytes of shared memory, at least, that hide the time between two products."""
BLOCKS = 100
"""Multiprocessors, at least: with fewer, a block's channels have no room."""
MOST_LAYERS = 256
"""Addresses of all layers are arguments of the kernel, which may have 32,764 bytes."""
STATES, GROUP, COLUMNS, THREADS, TURNS, UNWRITTEN = 16, 8, 32, 384, 4, -1  # as in stack_sizes.cuh


class Device:
    """What the kernel needs to know of a GPU."""

    def __init__(self, index: int) -> None:
        properties = torch.cuda.get_device_properties(index)
        self.blocks: int = properties.multi_processor_count
        self.shared: int = properties.shared_memory_per_block_optin
        new = (properties.major, properties.minor) >= (9, 0)
        self.capable = new and self.shared >= STAGES and self.blocks >= BLOCKS


@cache
def device_of(index: int) -> Device:
    return Device(index)


def covers(x: Tensor, stack: MambaStack) -> bool:
    """Whether the kernel computes a step x (B, 1, M) of layers that `step.why_not_covered` accepts."""
    first, device = stack.mixers[0], device_of(x.device.index)
    return (
        device.capable
        and len(x) <= SEQUENCES
        and len(stack.mixers) <= MOST_LAYERS
        and stack.last_norm is not None
        and all(norm is not None for norm in stack.norms)
        and all(_sizes(mixer) == _sizes(first) for mixer in stack.mixers)
        and x.shape[-1] <= WIDEST >= first.d_inner / 2
        and x.shape[-1] % COLUMNS == 0
        and first.d_inner % (COLUMNS * -(-first.d_inner // WIDEST)) == 0
        and (first.dt_rank + 2 * STATES) // GROUP <= device.blocks
    )


def _sizes(mixer: MambaLayer) -> tuple[int, int, int]:
    return mixer.d_inner, mixer.dt_rank, mixer.d_conv


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


def _kernel(x: Tensor, stack: MambaStack) -> Kernel:
    device, (inner, rank, taps) = device_of(x.device.index), _sizes(stack.mixers[0])
    sizes = {"M": x.shape[-1], "E": inner, "RANK": rank, "TAPS": taps, "LAYERS": len(stack.mixers)}
    slots = 8 if len(x) <= 8 else SEQUENCES
    return kernel("stack_step.cu", "stack_step", **sizes, SLOTS=slots, GRID=device.blocks, SHARED=device.shared)


def _splits(inner: int, low: int, blocks: int) -> int:
    """SPLITS in stack_sizes.cuh: parts of the columns of x_proj, as many as there are blocks for."""
    most, columns = blocks // (low // GROUP), inner // COLUMNS
    return max(n for n in range(1, most + 1) if columns % n == 0)


def step(
    x: Tensor, stack: MambaStack, convs: Sequence[Tensor], ssms: Sequence[Tensor], after: tuple[Tensor, Tensor]
) -> Tensor:
    """x (B, 1, M) -> (B, 1, M); states of each layer go from `convs` and `ssms` to `after`, maybe the same memory."""
    (B, _, M), (E, *_), low = x.shape, _sizes(stack.mixers[0]), stack.mixers[0].dt_rank + 2 * STATES
    splits, x = _splits(E, low, device_of(x.device.index).blocks), x.contiguous()
    out = torch.empty_like(x)
    # of 4 bytes each: what blocks write for each other, and counters
    sizes = [TURNS * B * n for n in (E // 2, E // 2, M, M // GROUP, splits * low)] + [4 * 32]
    exchange = torch.full((sum(sizes),), UNWRITTEN, dtype=torch.int32, device=x.device).split(sizes)
    assert stack.last_norm is not None
    tensors = [x, stack.last_norm, out, *exchange]
    (bits,) = struct.unpack("<I", struct.pack("<f", stack.eps))
    numbers: list[int] = []
    for i, (mixer, norm) in enumerate(zip(stack.mixers, stack.norms, strict=True)):
        assert norm is not None
        numbers += _addresses(mixer, norm, (convs[i], after[0][i], ssms[i], after[1][i]))
    _launch(_kernel(x, stack), x.device.index, [[t.data_ptr() for t in tensors] + [B, bits], numbers])
    return out


def _launch(run: Kernel, device: int, arguments: list[list[int]]) -> None:
    """One block on each multiprocessor, all at once, on torch's current stream."""
    if torch.cuda.current_device() != device:
        with torch.cuda.device(device):
            return _launch(run, device, arguments)
    blocks = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in arguments]
    pointers = (ctypes.c_void_p * len(blocks))(*map(ctypes.addressof, blocks))
    gpu = device_of(device)
    config, attribute = driver.CUlaunchConfig(), driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    attribute.value.cooperative = 1
    config.gridDimX, config.gridDimY, config.gridDimZ = gpu.blocks, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = THREADS, 1, 1
    config.sharedMemBytes, config.hStream = gpu.shared, torch._C._cuda_getCurrentRawStream(device)
    config.attrs, config.numAttrs = [attribute], 1
    function = run.function(device, gpu.shared)
    (code,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0)
    if code == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:  # a thread in which torch has run nothing yet
        make_current(device)
        (code,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0)
    if int(code):
        raise RuntimeError(f"{run.entry}: {code.name}")
