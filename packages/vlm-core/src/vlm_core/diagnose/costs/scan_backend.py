"""The backend of state-space layers whose kept tensors the estimate counts: that of a type of device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Literal

DeviceType = Literal["cpu", "cuda"]
_COUNTED = ("torch", "numba", "triton", "cuda")
"""Backends with shapes of their own; for others plain torch's are counted, which keeps most."""


def scan_backend(device: DeviceType) -> str:
    """The backend that layers use on CPUs or GPUs with the packages and environment variables of this machine."""
    if find_spec("vlm_ssm") is None:
        return "torch"
    import torch

    from vlm_ssm import backends
    from vlm_ssm.runtime.errors import BackendError

    try:
        name = backends.chosen(torch.device(device))
    except BackendError:  # one for the device at hand, which is another
        name = backends.default(torch.device(device))
    try:
        with backends.shapes_of(name):
            return name if name in _COUNTED else "torch"
    except BackendError:
        return "torch"


def on_backend(name: str) -> AbstractContextManager[None]:
    """Context in which state-space layers on fake tensors keep for the backward pass what this backend keeps."""
    if find_spec("vlm_ssm") is None:
        return nullcontext()
    from vlm_ssm.backends import forced, shapes_of

    return forced(name) if name == "torch" else shapes_of(name)
