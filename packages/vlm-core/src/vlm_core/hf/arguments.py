"""Arguments of transformers' interface: location of files, and values that describe the fixed behaviour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from vlm_core.errors import UserError, one_line

Accepted = Mapping[str, Sequence[Any]]

LOADING: Accepted = {
    "trust_remote_code": (True, False),  # honoured where the parts are built
    "use_safetensors": (True,),
    "weights_only": (True,),
    "low_cpu_mem_usage": (True,),
    "attn_implementation": ("sdpa",),
    "ignore_mismatched_sizes": (False,),
    "return_unused_kwargs": (False,),
    "use_fast": (True,),  # there is one tokenizer, and it is the fast one
    "use_kernels": (False,),
    "offload_buffers": (False,),
    "offload_state_dict": (False,),
    "load_in_8bit": (False,),
    "load_in_4bit": (False,),
}
"""What `from_pretrained` takes besides what it honours."""

SAVING: Accepted = {
    "safe_serialization": (True,),
    "save_original_format": (True, False),  # there is one format
    "save_peft_format": (True, False),
    "distributed_checkpoint": (False,),
    "legacy_format": (False,),
}

PROCESSING: Accepted = {
    "return_tensors": ("pt",),
    "return_attention_mask": (True,),
    "sanitize_control_tokens": (True,),  # what a user types is text
    "verbose": (True, False),
    "is_split_into_words": (False,),
    "return_token_type_ids": (False,),
    "return_overflowing_tokens": (False,),
    "return_special_tokens_mask": (False,),
    "return_offsets_mapping": (False,),
    "return_length": (False,),
    "return_mm_token_type_ids": (False,),
    "return_text_replacement_offsets": (False,),
    "stride": (0,),
    "do_convert_rgb": (True,),
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),  # by the model itself
    "data_format": ("channels_first",),
    "device": ("cpu",),
    "disable_grouping": (True, False),
    "load_audio_from_video": (False,),
    "enable_thinking": (False,),
    "timeout": (),
}
"""What the processor takes besides what it honours: text, images and chat templates alike."""

DECODING: Accepted = {"skip_special_tokens": (True,), "clean_up_tokenization_spaces": (False,)}


def equal(value: Any, other: Any) -> bool:
    """Whether two plain values are the same: 1 is not True, and what can't be compared is different."""
    if not isinstance(value, str | int | float) or isinstance(value, bool) != isinstance(other, bool):
        return False
    return value == other


def only(where: str, given: Mapping[str, Any], accepted: Accepted, honoured: Iterable[str]) -> None:
    """Raise `UserError` for an argument that is neither honoured nor an accepted value; None is always accepted."""
    for name, value in given.items():
        if value is None or (isinstance(value, list | tuple | dict) and not value):
            continue
        if any(equal(value, other) for other in accepted.get(name, ())):
            continue
        if accepted.get(name):
            values = " or ".join(repr(other) for other in accepted[name])
            raise UserError(f"{where}: {name}={value!r:.80} is not possible with this model, only {values}")
        raise UserError(
            f"{where} does not know {name} for this model; possible: {', '.join(sorted(honoured))}"
        )


HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
CALLERS = ("_from_auto", "_from_pipeline", "_commit_hash")
"""Internal arguments of transformers."""
PROCESSOR = (*HUB, "subfolder", "dtype", "torch_dtype", "device_map")
"""Pipelines hand the model's dtype and device to its processor, too."""
MODEL = ("config", "dtype", "device_map", "generation_config", "output_loading_info", "subfolder", *HUB)


def only_known(kwargs: dict[str, Any], honoured: tuple[str, ...] = MODEL) -> None:
    """Raises `UserError` for arguments that would have to change what is loaded."""
    rest = {name: value for name, value in kwargs.items() if name not in (*honoured, *CALLERS)}
    adapter = rest.pop("adapter_kwargs", None) or {}
    if adapter.get("_adapter_model_path"):
        raise UserError(
            f"{adapter['_adapter_model_path']} holds an adapter: load the model that it belongs to, then "
            "peft.PeftModel.from_pretrained(model, folder)"
        )
    known = (*HUB, "subfolder", "_adapter_model_path")
    only(
        "from_pretrained", {**rest, **{k: v for k, v in adapter.items() if k not in known}}, LOADING, honoured
    )


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
            f"device_map {device_map!r} can't be used: {one_line(error)}; this model goes to one device"
        ) from None
    return device
