"""Which implementation runs: chosen by device and availability, overridable by argument and environment."""

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
from vlm_ssm.runtime.errors import BackendError
from vlm_ssm.torch import ops as torch_ops
from vlm_ssm.triton import kernel_cache

VARIABLE = "VLM_SCAN_BACKEND"
BACKENDS = ("reference", "torch", "numba", "triton", "mamba_ssm")
_GPU = ("triton", "mamba_ssm")


def interpreted() -> bool:
    """Triton's kernels run in its interpreter, on the CPU, as its own variable asks: slow, and for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _load() -> tuple[dict[str, ModuleType], dict[str, str], list[str]]:
    """Every backend that this machine has, why the others are missing, and what is damaged.

    At import, not at first use: a first use that torch.compile traces could import nothing.
    """
    found, absent, damage = {"reference": reference, "torch": torch_ops}, {}, []
    for name, module, line in (
        ("numba", "numba.ops", "pip install 'vlm-ssm[cpu]'"),
        ("triton", "triton.ops", "pip install triton"),
        ("mamba_ssm", "mamba_ssm", "a build of mamba-ssm and causal-conv1d with their extensions"),
    ):
        if name in _GPU and not (torch.cuda.is_available() or (name == "triton" and interpreted())):
            absent[name] = "it needs a CUDA device, and torch finds none"
            continue
        try:
            found[name] = import_module(f"{__package__}.{module}")
            if name == "triton":
                kernel_cache.ensure_usable()
        except ImportError as error:
            absent[name] = f"{error}; {line} brings {name}"
        except Exception as error:  # there, but broken in some way of its own
            again = line.replace("install", "install --force-reinstall")
            absent[name] = f"{name} is damaged: {type(error).__name__}: {error}; {again}"
            damage.append(absent[name])
            warnings.warn(f"{absent[name]}. State-space layers run without it.", stacklevel=2)
    return found, absent, damage


_FOUND, _ABSENT, DAMAGE = _load()


def missing(name: str) -> str | None:
    """Why a backend can't be had on this machine, and how to get it; None if it can."""
    return _ABSENT.get(name)


def default(device: torch.device) -> str:
    """numba on a CPU, triton on a CUDA device, torch where these are not installed and everywhere else.

    Where there is no CUDA device, this is what would run on one with the same packages.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        return "triton" if find_spec("triton") else "torch"
    fast = {"cpu": "numba", "cuda": "triton"}.get(device.type)
    return fast if fast and not missing(fast) else "torch"


def chosen(device: torch.device, name: str | None = None) -> str:
    """The backend's name for tensors of this device; raises `BackendError` if the one asked for can't run."""
    name = name or os.environ.get(VARIABLE)
    if not name:
        return default(device)
    if name not in BACKENDS:
        raise BackendError(f"unknown scan backend {name!r}; possible: {', '.join(BACKENDS)}{_nearest(name)}")
    if reason := missing(name):
        raise BackendError(f"scan backend {name!r} can't be used: {reason}")
    if _runs_on(name, device):
        return name
    if device.type == "meta":  # shapes are worked out there whatever computes them later
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
    """For `--doctor`: what state-space layers run on there."""
    return f"scan backend {chosen(torch.device(device))}"


@contextmanager
def forced(name: str) -> Iterator[None]:
    """This backend for everything inside, whatever the environment says."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def backend(device: torch.device, name: str | None = None) -> ModuleType:
    """The module with `conv`, `scan` and `add_rms_norm`."""
    return _FOUND[chosen(device, name)]
