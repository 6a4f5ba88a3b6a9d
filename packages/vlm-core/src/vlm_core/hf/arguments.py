"""Arguments of transformers' interface: which are honoured, which values are accepted, and padding options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import snapshot_download

from vlm_core.errors import UserError, one_line

Accepted = Mapping[str, Sequence[Any]]

LOADING: Accepted = {
    "trust_remote_code": (True, False),  # honoured when the parts are built
    "use_safetensors": (True,),
    "weights_only": (True,),
    "low_cpu_mem_usage": (True,),
    "attn_implementation": ("sdpa",),
    "ignore_mismatched_sizes": (False,),
    "return_unused_kwargs": (False,),
    "use_fast": (True,),  # the only tokenizer is the fast one
    "use_kernels": (False,),
    "offload_buffers": (False,),
    "offload_state_dict": (False,),
    "load_in_8bit": (False,),
    "load_in_4bit": (False,),
}
"""Accepted values of `from_pretrained`'s arguments beyond those that it honours: they describe what it does anyway."""

SAVING: Accepted = {
    "safe_serialization": (True,),
    "save_original_format": (True, False),  # there is only one format
    "save_peft_format": (True, False),
    "distributed_checkpoint": (False,),
    "legacy_format": (False,),
}

PROCESSING: Accepted = {
    "return_tensors": ("pt",),
    "return_attention_mask": (True,),
    "sanitize_control_tokens": (True,),  # user text never becomes a control token
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
    "do_normalize": (True,),  # inside the model
    "data_format": ("channels_first",),
    "device": ("cpu",),
    "disable_grouping": (True, False),
    "load_audio_from_video": (False,),
    "enable_thinking": (False,),
    "timeout": (),
}
"""Accepted values of the processor's arguments beyond those that it honours, for text, images and chat templates."""

DECODING: Accepted = {"skip_special_tokens": (True,), "clean_up_tokenization_spaces": (False,)}


def same_value(value: Any, other: Any) -> bool:
    """Whether two plain values are equal and of the same kind: 1 is not True, and tensors equal nothing."""
    if not isinstance(value, str | int | float) or isinstance(value, bool) != isinstance(other, bool):
        return False
    return value == other


def refuse_unknown(
    where: str, arguments: Mapping[str, Any], accepted: Accepted, honoured: Iterable[str]
) -> None:
    """Raise `UserError` for an argument whose value is not in `accepted`; None and empty containers always are.

    `honoured` are the names that the message lists as possible.
    """
    for name, value in arguments.items():
        if value is None or (isinstance(value, list | tuple | dict) and not value):
            continue
        if any(same_value(value, other) for other in accepted.get(name, ())):
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
"""Arguments of a processor; pipelines also pass it the model's dtype and device."""
MODEL = ("config", "dtype", "device_map", "generation_config", "output_loading_info", "subfolder", *HUB)


def check_loading(kwargs: dict[str, Any], honoured: tuple[str, ...] = MODEL) -> None:
    """Raise `UserError` for arguments that would have to change what is loaded."""
    others = {name: value for name, value in kwargs.items() if name not in (*honoured, *CALLERS)}
    adapter = others.pop("adapter_kwargs", None) or {}
    if adapter.get("_adapter_model_path"):
        raise UserError(
            f"{adapter['_adapter_model_path']} holds an adapter: load the model that it belongs to, then "
            "peft.PeftModel.from_pretrained(model, folder)"
        )
    known = (*HUB, "subfolder", "_adapter_model_path")
    refuse_unknown(
        "from_pretrained",
        {**others, **{k: v for k, v in adapter.items() if k not in known}},
        LOADING,
        honoured,
    )


def local_folder(name: Any, kwargs: dict[str, Any]) -> Path:
    """The path of a folder, or of a hub repository's download; with `subfolder`, the path inside it."""
    folder = Path(name)
    if not folder.is_dir():
        options = {k: kwargs[k] for k in HUB if kwargs.get(k) is not None}
        folder = Path(snapshot_download(str(name), **options))
    inner = kwargs.get("subfolder")
    if inner and not (folder / inner).is_dir():
        raise UserError(f"{folder}: it has no folder {inner}")
    return folder / (inner or "")


def as_dtype(dtype: Any) -> torch.dtype | None:
    """A floating-point dtype from itself or its name; None for None and "auto": the dtype as saved."""
    if dtype is None or dtype == "auto":
        return None
    resolved = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise UserError(f"dtype {dtype!r}: expected float32, bfloat16, float16 or auto")
    return resolved


def as_device(device_map: Any) -> torch.device:
    """The one device that a `device_map` names; "auto" is the accelerator, or the CPU without one."""
    if isinstance(device_map, dict) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map == "auto":
        device_map = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        name: Any = "cpu" if device_map is None else device_map
        device = torch.device(name)
        torch.empty(0, device=device)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"device_map {device_map!r} can't be used: {one_line(error)}; this model goes to one device"
        ) from None
    return device


NESTED = (
    "text_kwargs",
    "images_kwargs",
    "videos_kwargs",
    "audio_kwargs",
    "common_kwargs",
    "processor_kwargs",
)
PADDINGS = {
    True: "longest",
    "longest": "longest",
    False: "no",
    "do_not_pad": "no",
    "max_length": "max_length",
}
TRUNCATIONS = {True: True, "longest_first": True, "only_first": True, False: False, "do_not_truncate": False}


class PaddingOptions(NamedTuple):
    """Padding and truncation of a batch; the names and values are those of transformers."""

    padding: bool | str = True
    padding_side: Literal["left", "right"] = "left"
    pad_to_multiple_of: int | None = None
    truncation: bool | str = False
    max_length: int | None = None
    add_special_tokens: bool | None = None


def _ungrouped(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments without transformers' groups (`text_kwargs`, …), whose members are moved to the top level."""
    flat = {name: value for name, value in kwargs.items() if name not in NESTED}
    for group in [name for name in NESTED if kwargs.get(name)]:
        inner = kwargs[group]
        for name, value in (_ungrouped(inner) if group == "processor_kwargs" else inner).items():
            if flat.get(name) is not None and value is not None and not same_value(flat[name], value):
                raise UserError(f"{name} is given twice: {flat[name]!r}, and {value!r} in {group}")
            flat[name] = value
    return flat


def padding_options(kwargs: dict[str, Any]) -> PaddingOptions:
    """The padding and truncation options among a processor's arguments.

    Raises `UserError` for values that are not supported and for unknown arguments.
    """
    others = {name: value for name, value in _ungrouped(kwargs).items() if value is not None}
    options = PaddingOptions(**{name: others.pop(name) for name in PaddingOptions._fields if name in others})
    if (kind := others.pop("return_tensors", "pt")) != "pt":
        raise UserError(f"return_tensors {kind!r}: expected 'pt'")
    refuse_unknown("the processor", others, PROCESSING, ("images", "text", *PaddingOptions._fields))
    for name, allowed in (
        ("padding", PADDINGS),
        ("truncation", TRUNCATIONS),
        ("padding_side", ("left", "right")),
    ):
        if getattr(options, name) not in allowed:
            raise UserError(
                f"{name} {getattr(options, name)!r}: expected one of {', '.join(map(repr, allowed))}"
            )
    for name in ("max_length", "pad_to_multiple_of"):
        number = getattr(options, name)
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise UserError(f"{name} {number!r}: expected a number of positions, 1 or more")
    uses_max_length = TRUNCATIONS[options.truncation] or PADDINGS[options.padding] == "max_length"
    if uses_max_length != (options.max_length is not None):
        raise UserError("max_length goes with truncation=True or padding='max_length'")
    return options
