"""What `from_pretrained` is asked for: where the files are, on which device and in which dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from vlm_core.errors import UserError
from vlm_core.hf.arguments import LOADING, only

HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
MODEL = ("config", "dtype", "device_map", "generation_config", "output_loading_info", "subfolder", *HUB)


def only_known(kwargs: dict[str, Any], honoured: tuple[str, ...] = MODEL) -> None:
    """Raises `UserError` for arguments that would have to change what is loaded."""
    rest = {name: value for name, value in kwargs.items() if name not in honoured}
    only("from_pretrained", {**rest, **_adapter(rest.pop("adapter_kwargs", None))}, LOADING, honoured)


def _adapter(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Of what transformers adds to look for an adapter, that which names one."""
    found = {k: v for k, v in (kwargs or {}).items() if k not in (*HUB, "subfolder")}
    return {"adapter_kwargs": found} if found else {"adapter_kwargs": None}


def local_folder(name: Any, kwargs: dict[str, Any]) -> Path:
    """A folder as it is; a hub repository downloaded, or taken from the hub's cache; `subfolder` inside it."""
    folder = Path(name)
    if not folder.is_dir():
        wanted = {k: kwargs[k] for k in HUB if kwargs.get(k) is not None}
        folder = Path(snapshot_download(str(name), **wanted))
    inner = kwargs.get("subfolder")
    if inner and not (folder / inner).is_dir():
        raise UserError(f"{folder}: it has no folder {inner}")
    return folder / (inner or "")


def as_dtype(dtype: Any) -> torch.dtype | None:
    """A dtype or its name; None and "auto" are as saved."""
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype {dtype!r}: expected float32, bfloat16, float16 or auto")
    return found


def as_device(device_map: Any) -> torch.device:
    """One device; "auto" is the accelerator if there is one."""
    if isinstance(device_map, dict) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map == "auto":
        device_map = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        wanted: Any = "cpu" if device_map is None else device_map
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"device_map {device_map!r} can't be used: {str(error).splitlines()[0]}; this model goes to one device"
        ) from None
    return device
