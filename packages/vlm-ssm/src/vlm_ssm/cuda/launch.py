"""Kernels by name: compiled and loaded at first use, launched with arguments by name."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from functools import cache, cached_property, partial
from typing import Any

import torch
from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from vlm_ssm.cuda.compiler import SOURCES, CompilationError, call, machine_code, target

PLANS = 1024
"""Shapes whose launches are kept, of each kernel."""
_LOADING = threading.RLock()
_DEFAULT_SHARED = 48 * 1024
"""Bytes of shared memory that a block may have without being asked for."""


def argument_names(file: str) -> list[str]:
    """Fields of `struct Arguments` of a source, in order; each is 8 bytes: an address or an integer."""
    text = (SOURCES / file).read_text(encoding="utf-8")
    if "struct Arguments {" not in text:  # it stands in a header of the source's own
        text = (SOURCES / re.findall(r'#include "(.*)"', text)[0]).read_text(encoding="utf-8")
    body = re.sub(r"//.*", "", text.split("struct Arguments {", 1)[1].split("};", 1)[0])
    names: list[str] = []
    for declaration in filter(str.strip, body.split(";")):
        fields = re.sub(r"^\s*(const\s+)?\w+\s*\*?\s*", "", declaration)
        names += [name.strip(" *\n") for name in fields.split(",")]
    return names


class Kernel:
    """An entry of a source with its compile-time constants."""

    def __init__(self, file: str, entry: str, defines: tuple[tuple[str, int], ...]) -> None:
        self.file, self.entry, self.defines = file, entry, defines
        self._functions: dict[int, Any] = {}

    @cached_property
    def names(self) -> list[str]:
        return argument_names(self.file)

    def function(self, device: int, shared: int) -> Any:
        """The function on a device, which must be the current one; `shared`: bytes of its dynamic shared memory."""
        if device not in self._functions:
            with _LOADING:
                self._functions[device] = self._load(device, shared)
        return self._functions[device]

    def _load(self, device: int, shared: int) -> Any:
        module = load(self.file, self.defines, device)
        function = call(driver.cuModuleGetFunction, module, self.entry.encode())
        if shared > _DEFAULT_SHARED:
            most = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
            if shared > most:
                raise CompilationError(
                    f"{self.entry} needs {shared} bytes of shared memory a block, the GPU has {most}"
                )
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call(driver.cuFuncSetAttribute, function, attribute, shared)
        return function

    def __call__(
        self, grid: tuple[int, int, int], threads: int, shared: int, device: int, **values: Any
    ) -> None:
        """Launch on torch's current stream; every field of `struct Arguments` by name: a tensor, None or an integer."""
        tensors = {
            name: value for name, value in values.items() if value is None or isinstance(value, Tensor)
        }
        integers = {name: value for name, value in values.items() if name not in tensors}
        self.prepare(grid, threads, shared, device, (*tensors,), **integers)(*tensors.values())

    def prepare(
        self,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        device: int,
        tensors: tuple[str, ...],
        **integers: int,
    ) -> Launch:
        """A launch whose integers are fixed: it takes the tensors, or None, in the order of their names."""
        if sorted([*tensors, *integers]) != sorted(self.names):
            raise TypeError(f"{self.entry} takes {self.names}, got {[*tensors, *integers]}")
        return Launch(self, grid, threads, shared, device, tensors, integers)


class Launch:
    """A kernel with its grid and the integers of its arguments; a call writes addresses only.

    It depends on shapes and strides, so callers keep one for each of those (`functools.lru_cache`).
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        device: int,
        tensors: tuple[str, ...],
        integers: dict[str, int],
    ) -> None:
        self._kernel, self._shape, self._device = kernel, (*grid, threads, 1, 1, shared), device
        self._slots = [kernel.names.index(name) for name in tensors]
        self._type = ctypes.c_int64 * len(kernel.names)
        self._fixed = bytes(self._type(*(integers.get(name, 0) for name in kernel.names)))

    def __call__(self, *tensors: Tensor | None) -> None:
        """On torch's current stream. The arguments are a new block: several threads may launch at once."""
        device = self._device
        if torch.cuda.current_device() != device:
            with torch.cuda.device(device):
                return self(*tensors)
        block = self._type.from_buffer_copy(self._fixed)
        for slot, tensor in zip(self._slots, tensors, strict=True):
            if tensor is not None:
                block[slot] = tensor.data_ptr()
        pointer = ctypes.c_void_p(ctypes.addressof(block))
        function = self._kernel.function(device, self._shape[-1])
        stream = torch._C._cuda_getCurrentRawStream(device)
        launch = partial(driver.cuLaunchKernel, function, *self._shape, stream)
        (code,) = launch(ctypes.addressof(pointer), 0)
        if code == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT:  # a thread in which torch has run nothing yet
            make_current(device)
            (code,) = launch(ctypes.addressof(pointer), 0)
        if int(code):
            raise RuntimeError(f"{self._kernel.entry}: {code.name}")


def make_current(device: int) -> None:
    """Make the context that torch uses on a device the current one of this thread."""
    torch.cuda.init()
    call(driver.cuCtxSetCurrent, call(driver.cuDevicePrimaryCtxRetain, call(driver.cuDeviceGet, device)))


@cache
def load(file: str, defines: tuple[tuple[str, int], ...], device: int) -> Any:
    """A source's module on a device."""
    make_current(device)
    major, minor = torch.cuda.get_device_capability(device)
    return call(driver.cuModuleLoadData, machine_code(file, defines, target(10 * major + minor)))


@cache
def why_unusable(device: int) -> str | None:
    """Why no kernel runs on a GPU, reported once; Triton's kernels take over. None if they run.

    The GPU is too old, NVRTC refuses its architecture, or the driver is older than NVRTC.
    """
    try:
        with torch.cuda.device(device):
            load("reduce.cu", (("ROW", 0),), device)
    except (CompilationError, OSError, RuntimeError) as error:
        sys.stderr.write(
            f"vlm-ssm: backend cuda can't run on GPU {device}: {error}; Triton's kernels are used\n"
        )
        return str(error)
    return None


def is_usable(device: torch.device) -> bool:
    """Whether kernels run on a device; assumed while torch.compile traces, and for shapes without a GPU."""
    if device.type != "cuda":
        return True
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.compiler.is_compiling() or why_unusable(index) is None


@cache
def _kernel(file: str, entry: str, defines: tuple[tuple[str, int], ...]) -> Kernel:
    return Kernel(file, entry, defines)


def kernel(file: str, entry: str, **defines: int) -> Kernel:
    """The kernel of these compile-time constants; one object for all who ask."""
    return _kernel(file, entry, tuple(sorted((name, int(value)) for name, value in defines.items())))
