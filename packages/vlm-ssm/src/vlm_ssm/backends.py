"""Choice of the backend: by device and availability, or by argument or environment variable."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from vlm_ssm import reference
from vlm_ssm.runtime.errors import BackendError, UnusableError
from vlm_ssm.torch import ops as torch_ops
from vlm_ssm.triton import kernel_cache

VARIABLE = "VLM_SCAN_BACKEND"
BACKENDS = ("reference", "torch", "numba", "cuda", "triton", "mamba_ssm")
_GPU = ("cuda", "triton", "mamba_ssm")
_shapes_of: list[str] = []
"""Backends of the contexts `shapes_of` that the process is in."""


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1: Triton's interpreter runs the kernels on the CPU, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _load() -> tuple[dict[str, ModuleType], dict[str, str], list[str]]:
    """Available backends by name, why the others are missing, and messages about damaged ones.

    Runs at import, since a first use that torch.compile traces could not import modules.
    """
    available, absent, damage = {"reference": reference, "torch": torch_ops}, {}, []
    for name, module, line in (
        ("numba", "numba.ops", "pip install 'vlm-ssm[cpu]'"),
        ("triton", "triton.ops", "pip install triton"),
        ("cuda", "cuda.ops", "pip install cuda-bindings triton"),
        ("mamba_ssm", "mamba_ssm", "a build of mamba-ssm and causal-conv1d with their extensions"),
    ):
        if name in _GPU and not (torch.cuda.is_available() or (name == "triton" and interpreted())):
            absent[name] = "it needs a CUDA device, and torch finds none"
            continue
        try:
            available[name] = import_module(f"{__package__}.{module}")
            if name == "triton":
                kernel_cache.ensure_usable()
        except UnusableError as error:
            absent[name] = str(error)
        except ImportError as error:
            absent[name] = f"{error}; {line} brings {name}"
        except Exception as error:  # installed, but its import fails
            again = line.replace("install", "install --force-reinstall")
            absent[name] = f"{name} is damaged: {type(error).__name__}: {error}; {again}"
            damage.append(absent[name])
            warnings.warn(f"{absent[name]}. State-space layers run without it.", stacklevel=2)
    return available, absent, damage


_AVAILABLE, _ABSENT, DAMAGE = _load()


def missing(name: str) -> str | None:
    """Why a backend is not available on this machine and how to install it; None if it is available."""
    return _ABSENT.get(name)


def default(device: torch.device) -> str:
    """numba on CPUs, cuda or else triton on CUDA devices, torch where these are missing and on other devices.

    For "cuda" on a machine without one: the backend that a CUDA device would use with the same packages.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        return "cuda" if _has_bindings() else "triton" if find_spec("triton") else "torch"
    fast = {"cpu": ("numba",), "cuda": ("cuda", "triton")}.get(device.type, ())
    return next((name for name in fast if not missing(name)), "torch")


def _has_bindings() -> bool:
    """Whether what backend `cuda` needs is installed."""
    try:
        return bool(find_spec("cuda.bindings") and find_spec("triton"))
    except ModuleNotFoundError:
        return False


def chosen(device: torch.device, name: str | None = None) -> str:
    """Name of the backend for tensors on `device`: `name`, else VLM_SCAN_BACKEND, else the default.

    Raises `BackendError` if the named one is unknown, not installed or not for this device.
    """
    if _shapes_of:
        return _shapes_of[-1]
    name = name or os.environ.get(VARIABLE)
    if not name:
        return default(device)
    if name not in BACKENDS:
        raise BackendError(f"unknown scan backend {name!r}; possible: {', '.join(BACKENDS)}{_nearest(name)}")
    if reason := missing(name):
        raise BackendError(f"scan backend {name!r} can't be used: {reason}")
    if _runs_on(name, device):
        return name
    if device.type == "meta":  # shape inference is the same for every backend
        return "torch"
    place = "on CUDA devices" if name in _GPU else "on the CPU"
    raise BackendError(f"scan backend {name!r} runs {place}, the tensors are on {device.type}; leave it out")


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name[:40], BACKENDS, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _runs_on(name: str, device: torch.device) -> bool:
    if name in ("reference", "torch"):
        return True
    return device.type == ("cuda" if name in _GPU and not (name == "triton" and interpreted()) else "cpu")


def engine(device: str) -> str:
    """The backend of state-space layers on a device, as `--doctor` prints it."""
    return f"scan backend {chosen(torch.device(device))}"


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Context manager: use this backend, whatever VLM_SCAN_BACKEND is."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def shapes_of(name: str) -> Iterator[None]:
    """Context in which layers on fake tensors run as on this backend, whether or not this machine has its device.

    The kernels are those for a GPU that backend `cuda` supports. Raises `BackendError` if packages of it are missing.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown scan backend {name!r}; possible: {', '.join(BACKENDS)}{_nearest(name)}")
    try:
        module(name)
    except (ImportError, UnusableError) as error:
        raise BackendError(f"scan backend {name!r} can't be imported: {error}") from error
    _shapes_of.append(name)
    try:
        yield
    finally:
        _shapes_of.pop()


def backend(device: torch.device, name: str | None = None) -> ModuleType:
    """The backend's module, with the functions `conv`, `scan` and `add_rms_norm`."""
    return module(chosen(device, name))


def module(name: str) -> ModuleType:
    """A backend's module by name: an available one, or one whose shapes are asked for."""
    if name in _AVAILABLE:
        return _AVAILABLE[name]
    return import_module(f"{__package__}.{name if name == 'mamba_ssm' else f'{name}.ops'}")
