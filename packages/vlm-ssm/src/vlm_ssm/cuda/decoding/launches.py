"""Launches with attributes: those that may start before the kernel in front has ended, and of all blocks at once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from vlm_ssm.cuda.launch import Kernel, make_current

_FIRST = (9, 0)
"""The compute capability that has programmatic dependent launch."""


@cache
def _dependent(device: int) -> list[Any]:
    if torch.cuda.get_device_capability(device) < _FIRST:
        return []
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return [attribute]


@cache
def _cooperative() -> list[Any]:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    attribute.value.cooperative = 1
    return [attribute]


def launch_dependent(
    run: Kernel, grid: tuple[int, int], threads: int, device: int, **values: Tensor | int | None
) -> None:
    """As a call of `run`, but dependent: programmatic dependent launch. Weights must not be written just before it.

    The kernel itself waits (`wait_for_inputs` in matvec.cuh) before it reads what earlier kernels wrote. What it does
    before that, reading weights, overlaps with them. GPUs before compute capability 9.0 launch in the ordinary way.
    """
    if len(values) != len(run.names):  # a missing name is a KeyError below
        raise TypeError(f"{run.entry} takes {run.names}, got {[*values]}")
    numbers = [v.data_ptr() if isinstance(v, Tensor) else v or 0 for v in map(values.__getitem__, run.names)]
    _launch(run, (*grid, threads, 0), device, _dependent(device), [numbers])


def launch_cooperative(
    run: Kernel, blocks: int, threads: int, shared: int, device: int, arguments: Sequence[Sequence[int]]
) -> None:
    """All blocks run at the same time, so that they may wait for each other; an error if the GPU has no room.

    `shared`: bytes of a block's dynamic shared memory. `arguments`: 8-byte fields of each of the kernel's structs.
    """
    _launch(run, (blocks, 1, threads, shared), device, _cooperative(), arguments)


def _launch(
    run: Kernel,
    shape: tuple[int, int, int, int],
    device: int,
    attributes: list[Any],
    arguments: Sequence[Sequence[int]],
) -> None:
    """`shape`: the grid's two sizes, threads, bytes of shared memory."""
    if torch.cuda.current_device() != device:
        with torch.cuda.device(device):
            return _launch(run, shape, device, attributes, arguments)
    blocks = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in arguments]
    pointers = (ctypes.c_void_p * len(blocks))(*map(ctypes.addressof, blocks))
    function, config = run.function(device, shape[-1]), _config(shape, device, attributes)
    (code,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0)
    if code == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:  # a thread in which torch has run nothing yet
        make_current(device)
        (code,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0)
    if int(code):
        raise RuntimeError(f"{run.entry}: {code.name}")


def _config(shape: tuple[int, int, int, int], device: int, attributes: list[Any]) -> Any:
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = *shape[:2], 1
    config.blockDimX, config.blockDimY, config.blockDimZ = shape[2], 1, 1
    config.sharedMemBytes = shape[3]
    config.hStream = torch._C._cuda_getCurrentRawStream(device)
    config.attrs, config.numAttrs = attributes, len(attributes)
    return config
