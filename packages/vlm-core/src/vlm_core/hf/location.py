"""What `from_pretrained` is asked for: where the files are, on which device and in which dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from vlm_core.errors import UserError

HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
HARMLESS = (
    "trust_remote_code", "code_revision", "adapter_kwargs", "attn_implementation", "low_cpu_mem_usage",
    "use_safetensors", "return_unused_kwargs", "tokenizer_type",
)  # fmt: skip


def only_known(kwargs: dict[str, Any]) -> None:
    """Raises `UserError` for arguments that would have to change what is loaded."""
    wrong = [
        k for k, v in kwargs.items() if k not in (*HUB, *HARMLESS) and not k.startswith("_") and v is not None
    ]
    if wrong:
        raise UserError(
            f"from_pretrained does not know {', '.join(wrong)} for this model; possible: dtype, device_map (one "
            f"device), output_loading_info, {', '.join(HUB)}"
        )


def local_folder(name: Any, kwargs: dict[str, Any]) -> Path:
    """A folder as it is; a hub repository downloaded, or taken from the hub's cache."""
    if Path(name).is_dir():
        return Path(name)
    return Path(snapshot_download(str(name), **{k: kwargs[k] for k in HUB if kwargs.get(k) is not None}))


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
