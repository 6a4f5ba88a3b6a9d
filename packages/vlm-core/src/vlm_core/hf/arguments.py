"""Arguments of transformers' interface that this model takes only at the value which describes what happens anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_core.errors import UserError

Accepted = Mapping[str, Sequence[Any]]

LOADING: Accepted = {
    "trust_remote_code": (True, False),  # whose code runs is settled before this is called
    "use_safetensors": (True,),
    "weights_only": (True,),
    "low_cpu_mem_usage": (True,),
    "attn_implementation": ("sdpa",),
    "ignore_mismatched_sizes": (False,),
    "return_unused_kwargs": (False,),
    "use_kernels": (False,),
    "offload_buffers": (False,),
    "offload_state_dict": (False,),
    "load_in_8bit": (False,),
    "load_in_4bit": (False,),
    "_from_auto": (True, False),
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
    """Raise `UserError` for what is neither known nor what happens anyway; None and nothing ask for nothing."""
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
