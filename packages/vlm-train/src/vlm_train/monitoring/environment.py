"""Environment of a run: package versions, processes, device."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from vlm_core.model_folder import assemble
from vlm_core.spec.spec import Spec
from vlm_train.distributed.base import DDPStrategy


def versions(spec: Spec) -> dict[str, str]:
    """Versions of Python and of every package that the run depends on, by name."""
    packages = {"python": platform.python_version(), **assemble.versions(spec)}
    return packages | {name: version(name) for name in ("accelerate", "vlm-train")}


def environment(spec: Spec, strategy: DDPStrategy) -> dict[str, str]:
    """The content of `environment.json` in a run folder."""
    device = strategy.accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        **versions(spec),
        "processes": str(strategy.accelerator.num_processes),
        "strategy": strategy.name,
        "device": f"{device.type} ({name})",
    }
