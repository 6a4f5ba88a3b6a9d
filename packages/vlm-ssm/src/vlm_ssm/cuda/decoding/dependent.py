"""Launches that may start before the kernel in front has ended: programmatic dependent launch.

The kernel itself waits (`wait_for_inputs` in matvec.cuh) before it reads what earlier kernels wrote. What it does
before that, reading weights, overlaps with them. GPUs before compute capability 9.0 launch in the ordinary way.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from vlm_ssm.cuda.launch import Kernel, make_current

_FIRST = (9, 0)
"""The compute capability that has them."""


@cache
def _attributes(device: int) -> list[Any]:
    if torch.cuda.get_device_capability(device) < _FIRST:
        return []
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return [attribute]


def launch_dependent(
    run: Kernel, grid: tuple[int, int], threads: int, device: int, **values: Tensor | int | None
) -> None:
    """As a call of `run`, but dependent. Weights must not be written just before it."""
    if len(values) != len(run.names):  # a missing name is a KeyError below
        raise TypeError(f"{run.entry} takes {run.names}, got {[*values]}")
    if torch.cuda.current_device() != device:
        with torch.cuda.device(device):
            return launch_dependent(run, grid, threads, device, **values)
    numbers = [v.data_ptr() if isinstance(v, Tensor) else v or 0 for v in map(values.__getitem__, run.names)]
    block = (ctypes.c_int64 * len(numbers))(*numbers)
    pointer = ctypes.c_void_p(ctypes.addressof(block))
    function, config = run.function(device, 0), _config(grid, threads, device)
    (code,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointer), 0)
    if code == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:  # a thread in which torch has run nothing yet
        make_current(device)
        (code,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointer), 0)
    if int(code):
        raise RuntimeError(f"{run.entry}: {code.name}")


def _config(grid: tuple[int, int], threads: int, device: int) -> Any:
    config, attributes = driver.CUlaunchConfig(), _attributes(device)
    config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.hStream = torch._C._cuda_getCurrentRawStream(device)
    config.attrs, config.numAttrs = attributes, len(attributes)
    return config
