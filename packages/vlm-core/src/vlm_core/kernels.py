"""For `--doctor`: which compiled kernels are there, what each component runs on, how to install what is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from vlm_core.errors import UserError
from vlm_core.registry import installed

Rows = list[tuple[str, str]]

# A package being there proves nothing: mamba-ssm installs without its extension, and importing it fails without
# CUDA. So the extension modules themselves are looked for, and nothing is imported.
KERNELS = {
    "numba (CPU)": ("numba", "pip install 'vlm-core[cpu]'"),
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
_HALF = {"selective_scan_cuda": "mamba_ssm", "causal_conv1d_cuda": "causal_conv1d"}


def _there(module: str) -> bool:
    """Whether it can be found; nothing is imported."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def kernel_rows() -> Rows:
    """Each kernel library, present or with the line that installs it."""
    rows = []
    for name, (module, line) in KERNELS.items():
        try:
            rows.append((name, "present" if _there(module) else f"missing: {_without(module)}{line}"))
        except Exception as error:  # a damaged installation raises anything
            rows.append((name, f"damaged: {type(error).__name__}: {error}; {line} --force-reinstall"))
    return rows


def _without(module: str) -> str:
    """Says that the Python half of a package is there without its extension."""
    package = _HALF.get(module)
    return f"{package} is installed without it; " if package and _there(package) else ""


def engine_rows(devices: list[str]) -> Rows:
    """What computes each encoder, connector and language model on each device, as its config's class says."""
    rows = []
    for entry in installed().all():
        if entry.kind in ("encoder", "connector", "llm"):
            told = [f"{device}: {_engine(entry.value, device)}" for device in devices]
            rows.append((f"{entry.kind} {entry.name}", ", ".join(told)))
    return rows


def _engine(config: type, device: str) -> str:
    try:
        return config.engine(device)  # pyright: ignore[reportAttributeAccessIssue]
    except UserError as error:
        return f"nothing: {error}"
