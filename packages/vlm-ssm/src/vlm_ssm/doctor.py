"""Backends and compiled kernels of this machine: which are used, which are missing, how to install them.

`python -m vlm_ssm` and `vlm-assemble --doctor` print these rows.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from vlm_ssm.runtime.errors import BackendError
from vlm_ssm.runtime.private_folder import why_untrusted

Rows = list[tuple[str, str]]

# An installed package proves nothing: mamba-ssm installs without its extension, and importing it fails without CUDA.
# So the extension modules are searched for, and nothing is imported.
KERNELS = {
    "numba (CPU)": ("numba", "pip install 'vlm-ssm[cpu]'"),
    "triton": ("triton", "pip install triton"),
    "selective_scan_cuda": (
        "selective_scan_cuda",
        "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-binary mamba-ssm mamba-ssm",
    ),
    "causal_conv1d_cuda": (
        "causal_conv1d_cuda",
        "pip install --no-build-isolation --no-binary causal-conv1d causal-conv1d",
    ),
}
_PACKAGES = {"selective_scan_cuda": "mamba_ssm", "causal_conv1d_cuda": "causal_conv1d"}


def backend_rows(devices: list[str]) -> tuple[Rows, list[str]]:
    """Rows about backends, VLM_SCAN_BACKEND and numba's kernels; and the problems found."""
    from vlm_ssm.backends import BACKENDS, DAMAGE, VARIABLE

    choices = {device: _choice(device) for device in devices}
    rows: Rows = []
    for name in BACKENDS:
        used = ", ".join(device for device, (chosen, _) in choices.items() if chosen == name)
        rows.append((name, f"used on {used}" if used else _state(name)))
    forced = os.environ.get(VARIABLE)
    rows.append((VARIABLE, f"forces {forced}" if forced else "not set"))
    rows.append(("Mamba layers", "; ".join(_layers(device, name) for device, (name, _) in choices.items())))
    problems = [problem for _, problem in choices.values() if problem]
    return rows + _numba_rows() + _cuda_rows(), problems + DAMAGE


def _choice(device: str) -> tuple[str | None, str | None]:
    """The backend used on a device, or None and a message about the problem."""
    from vlm_ssm.backends import VARIABLE, chosen

    try:
        return chosen(torch.device(device)), None
    except BackendError as error:
        forced = os.environ[VARIABLE]
        return None, f"{VARIABLE}={forced} on {device}: {error}\nunset {VARIABLE} for the default"


def _layers(device: str, backend: str | None) -> str:
    """Whether layers on a device run as one operation."""
    from vlm_ssm.layers.fused_mixer import why_backend_cannot_fuse

    reason = "no backend" if backend is None else why_backend_cannot_fuse(backend)
    return f"{device}: separate operations ({reason})" if reason else f"{device}: one operation each"


def _state(name: str) -> str:
    from vlm_ssm.backends import missing

    reason = missing(name)
    return f"missing: {reason}" if reason else "available"


def _numba_rows() -> Rows:
    """Threading and cache of numba's kernels; no rows without numba."""
    if _state("numba") != "available":
        return []
    from vlm_ssm.numba.kernels import jit

    library, folder = jit.openmp(), jit.cache_folder()
    shared = Path(library._name).name if library else "none: kernels use Python threads"
    count = len(list(folder.rglob("*.nbi")))
    state = f"{count} compiled" if count else "not compiled yet"
    if jit.why_not_cached():
        problem = why_untrusted(folder)
        state = f"not used: {problem}" if problem else "can't be written"
        state += ": kernels are compiled in each process"
    return [("OpenMP of kernels", shared), ("kernel cache", str(folder)), ("kernels", state)]


def _cuda_rows() -> Rows:
    """What compiles CUDA kernels, where they are kept, and what they leave to Triton; nothing without them."""
    if _state("cuda") != "available":
        return []
    from vlm_ssm.cuda import compiler, launch
    from vlm_ssm.cuda.scan_inputs import LEAST_WIDTH, MOST_STATES
    from vlm_ssm.runtime.kernel_cache import kernel_folder

    folder = kernel_folder("cuda")
    kept = compiler.why_not_kept() or f"{len(list(folder.glob('*.bin')))} compiled"
    covered = f"state sizes up to {MOST_STATES}, groups of {LEAST_WIDTH} channels or more; decoding in bf16"
    covered += "; triton runs other cases"
    if reason := launch.why_unusable(torch.cuda.current_device()):
        covered = f"nothing: {reason}; triton runs instead"
    return [("NVRTC", compiler.version()), ("CUDA kernels", f"{folder}: {kept}"), ("cuda covers", covered)]


def kernel_rows() -> Rows:
    """Each kernel library: present, or the command that installs it."""
    rows = []
    for name, (module, line) in KERNELS.items():
        try:
            rows.append(
                (name, "present" if _installed(module) else f"missing: {_extension_hint(module)}{line}")
            )
        except Exception as error:  # a damaged installation raises anything
            rows.append((name, f"damaged: {type(error).__name__}: {error}; {line} --force-reinstall"))
    return rows


def _installed(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def _extension_hint(module: str) -> str:
    """A hint if the extension's package is installed without it."""
    package = _PACKAGES.get(module)
    return f"{package} is installed without it; " if package and _installed(package) else ""
