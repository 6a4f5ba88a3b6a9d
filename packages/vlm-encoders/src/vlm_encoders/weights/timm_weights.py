"""Weight files for timm towers: with timm's tensor names, or with names that timm can translate."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_encoders.weights import checkpoints, matching


def load_file(model: nn.Module, where: str, *, target: str, match: Literal["names", "order"]) -> None:
    """Load a file or folder into a whole timm model; tensors of its head may be missing.

    Files in another layout (OpenAI's CLIP, open_clip, the original DINOv2 and EVA) go through the translation
    that timm applies to its own downloads.
    """
    tensors = checkpoints.read(checkpoints.locate(where))
    head = _head(model)
    names = [{name for name in some if not name.startswith(head)} for some in (model.state_dict(), tensors)]
    if match == "names" and names[0] != names[1]:
        tensors = _translate(model, tensors, where, target)
    matching.load(model, tensors, source=where, target=target, match=match, optional=head)


def _head(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the classifier's names."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _translate(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, target: str
) -> Mapping[str, Tensor]:
    """timm's function for the model's family, where it has one."""
    convert: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        converted = convert(dict(tensors), model)
    except Exception:  # it is written for files of that family and may fail on others
        return tensors  # `matching.load` then reports the original names
    sizes = {tensor.numel() for tensor in tensors.values()}
    for name, tensor in converted.items():
        # timm would resample patches and positions of another size; it may also drop the CLS token's position
        fits = {tensor.numel(), tensor.numel() + tensor.shape[-1]} & sizes if tensor.ndim else True
        if (name == "pos_embed" or tensor.ndim == 4) and not fits:
            raise UserError(
                f"{source}: does not fit {target}: its {name} is of another size; "
                "name the model that these weights belong to"
            )
    return converted
