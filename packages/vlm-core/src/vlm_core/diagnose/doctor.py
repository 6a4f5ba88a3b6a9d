"""Diagnostics of `vlm-assemble --doctor`: versions, devices, scan backends, kernels, plugins, and problems."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from vlm_core.diagnose.engines import engine_rows
from vlm_core.errors import UserError
from vlm_core.plugins.registry import KINDS, Registry, installed
from vlm_core.runtime.cpu_name import cpu_name

Rows = list[tuple[str, str]]
Section = tuple[str, Rows]

LIBRARIES = {  # name -> distribution
    "vlm-core": "vlm-core",
    "vlm-ssm": "vlm-ssm",
    "vlm-serve": "vlm-serve",
    "torch": "torch",
    "numba": "numba",
    "llvmlite": "llvmlite",
    "transformers": "transformers",
    "timm": "timm",
    "open_clip": "open-clip-torch",
    "mamba-ssm": "mamba-ssm",
    "triton": "triton",
}
_NO_NUMBA = "not installed; install it with: pip install 'vlm-ssm[cpu]'"


def report() -> tuple[list[Section], list[str]]:
    """-> (sections of names and values, problems with what to do)."""
    (device, fault), (plugins, faults) = device_rows(), plugin_rows()
    scan, kernels, problems = ([], [], [fault]) if fault else scan_rows()
    sections = [
        ("versions", version_rows()),
        ("device", device),
        ("scan backends", scan),
        ("kernels", kernels),
        ("parts run on", [] if fault else engine_rows(_devices())),
        ("plugins", plugins),
    ]
    return [(title, rows) for title, rows in sections if rows], problems + faults


def version_rows() -> Rows:
    """Python, platform and installed libraries, without importing them."""
    rows = [("python", f"{platform.python_version()} {platform.python_implementation()}")]
    rows.append(("platform", platform.platform()))
    for name, distribution in LIBRARIES.items():
        try:
            rows.append((name, version(distribution)))
        except PackageNotFoundError:
            if name == "numba":
                rows.append((name, _NO_NUMBA))
    return rows


def device_rows() -> tuple[Rows, str | None]:
    """-> (CPU, threads and CUDA devices, the problem if torch can't be imported)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = [("cpu", cpu_name()), ("cores", f"{usable} usable of {os.cpu_count()}")]
    try:
        import torch
    except Exception as error:  # a damaged installation raises anything
        return rows, f"torch can't be imported: {_named(error)}; reinstall it: https://pytorch.org"
    rows.append(("torch threads", str(torch.get_num_threads())))
    rows.extend((f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(_cuda_devices()))
    if not _cuda_devices():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        rows.append(("cuda", f"no CUDA device; torch is built {built}"))
    return rows, None


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _devices() -> list[str]:
    return ["cpu", "cuda"] if _cuda_devices() else ["cpu"]


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def scan_rows() -> tuple[Rows, Rows, list[str]]:
    """-> (scan backends, kernels, problems); empty without vlm-ssm."""
    if find_spec("vlm_ssm") is None:
        return [], [], []
    from vlm_ssm.doctor import backend_rows, kernel_rows

    backends, problems = backend_rows(_devices())
    return backends, kernel_rows(), problems


def plugin_rows() -> tuple[Rows, list[str]]:
    """-> (numbers of components by kind, their packages, problems with plugins)."""
    registry = installed()
    count = Counter(entry.kind for entry in registry.all())
    packages = sorted({f"{entry.distribution} {entry.version}" for entry in registry.all()})
    rows = [("components", ", ".join(f"{count[kind]} {kind}" for kind in KINDS))]
    rows.append(("packages", ", ".join(packages) or "none"))
    rows.append(("broken", ", ".join(registry.broken) or "none"))
    if disabled := os.environ.get("VLM_DISABLE_PLUGINS"):
        rows.append(("VLM_DISABLE_PLUGINS", disabled))
    return rows, _broken(registry) + _clashes(registry)


def _broken(registry: Registry) -> list[str]:
    return [
        f"broken plugin: {name}: {error}; update it, or switch it off: VLM_DISABLE_PLUGINS={name}"
        for name, error in registry.broken.items()
    ]


def _clashes(registry: Registry) -> list[str]:
    texts = []
    for kind, name in registry.entries:
        try:
            registry.get(kind, name)
        except UserError as error:
            texts.append(str(error))
    return texts
