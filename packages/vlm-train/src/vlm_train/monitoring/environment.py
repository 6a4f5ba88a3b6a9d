"""Environment of a run: package versions, processes, device."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from vlm_core.model_folder import assemble
from vlm_core.spec.spec import Spec
from vlm_train.distributed.base import DDPStrategy


def versions(spec: Spec) -> dict[str, str]:
    """Of Python and of every package that the run depends on."""
    found = {"python": platform.python_version(), **assemble.versions(spec)}
    return found | {name: version(name) for name in ("accelerate", "vlm-train")}


def environment(spec: Spec, strategy: DDPStrategy) -> dict[str, str]:
    """As `environment.json` of a run's folder holds it."""
    device = strategy.accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        **versions(spec),
        "processes": str(strategy.accelerator.num_processes),
        "strategy": strategy.name,
        "device": f"{device.type} ({name})",
    }
