"""`accelerate`: the Mamba-1 layers of a transformers model computed by this package."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from inspect import Parameter, signature
from typing import Any, TypeVar

from torch import nn

from vlm_ssm import backends
from vlm_ssm.layers.mixer import SelectiveSSM
from vlm_ssm.layers.transformers_mixer import NORMS, VLMMixer, accelerated, why_not

Model = TypeVar("Model", bound=nn.Module)
CLASSES = {"MambaMixer": (), "FalconMambaMixer": NORMS}
"""Names of transformers' Mamba-1 layers, and the submodules that one has beside those of the first."""
_ATTRIBUTES = (
    "intermediate_size",
    "ssm_state_size",
    "conv_kernel_size",
    "time_step_rank",
    "layer_idx",
    "activation",
)
_PARTS = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", "A_log", "D")
_ARGUMENTS = ("hidden_states", "cache", "attention_mask")

_log = logging.getLogger(__name__)


def accelerate(model: Model) -> Model:
    """Let vlm_ssm compute the Mamba-1 layers of a transformers model, in place -> the same model.

    `model` is a `MambaForCausalLM`, `MambaModel`, `FalconMambaForCausalLM` or `FalconMambaModel` of transformers 5.24
    or later, or any module with such layers inside. Outputs, gradients, `generate` and its cache stay as they are, up
    to rounding; parameters, state dict and `save_pretrained` are untouched. `print(model)` marks the layers as
    "computed by vlm_ssm"; a second call changes nothing.

    Layers whose conv1d or dt_proj is hooked, wrapped or quantised keep transformers' forward pass; a warning counts
    them. Raises `ValueError` if no layer can be accelerated: the message says what was found.
    """
    if not isinstance(model, nn.Module):
        what = (
            f"the class {model.__name__}" if isinstance(model, type) else f"{type(model).__name__!r} object"
        )
        raise ValueError(f"accelerate takes a transformers model, not {what}")
    mixers = [module for module in model.modules() if _name(module)]
    if not mixers:
        raise ValueError(_no_layers(model))
    reasons = [None if isinstance(mixer, VLMMixer) else _obstacle(mixer) for mixer in mixers]
    left = Counter(reason for reason in reasons if reason)
    if left.total() == len(mixers):
        raise ValueError(f"no layer of this {type(model).__name__} can be accelerated: {_listed(left)}")
    for mixer, reason in zip(mixers, reasons, strict=True):
        if reason is None and not isinstance(mixer, VLMMixer):
            mixer.__class__ = accelerated(type(mixer))
    done = f"{len(mixers) - left.total()} of {len(mixers)} Mamba layers are computed by vlm_ssm"
    if left:
        warnings.warn(f"{done}; the others by transformers: {_listed(left)}", stacklevel=2)
    device = next(mixers[0].parameters()).device
    _log.info("%s, scan backend %s", done, backends.chosen(device))
    return model


def _name(module: nn.Module) -> str | None:
    """The name in `CLASSES` of a layer's class or of a base: FSDP2 subclasses the modules that it wraps."""
    if isinstance(module, SelectiveSSM):
        return None
    return next((kind.__name__ for kind in type(module).__mro__ if kind.__name__ in CLASSES), None)


def _obstacle(mixer: Any) -> str | None:
    """Why a layer keeps its forward pass; None if it can be swapped."""
    name = _name(mixer) or ""
    lacks = [a for a in (*_ATTRIBUTES, *_PARTS, *CLASSES[name]) if not hasattr(mixer, a)]
    if lacks:
        return f"a {name} without {', '.join(lacks)} is not that of transformers 5.24 or later"
    if "forward" in vars(mixer):
        return "its forward is replaced"
    parameters = signature(type(mixer).forward).parameters
    other = [
        n for n, p in parameters.items() if p.default is Parameter.empty and n not in ("self", *_ARGUMENTS)
    ]
    other = [n for n in other if parameters[n].kind is not Parameter.VAR_KEYWORD]
    if other or not set(_ARGUMENTS) <= set(parameters):
        return f"its forward({', '.join(parameters)}) is not that of transformers 5.24 or later"
    return why_not(mixer)


def _listed(reasons: Counter[str]) -> str:
    return "; ".join(f"{count} × {reason}" for reason, count in reasons.items())


def _no_layers(model: nn.Module) -> str:
    kinds = sorted(
        {type(module).__name__ for module in model.modules() if "mixer" in type(module).__name__.lower()}
    )
    if any(isinstance(module, SelectiveSSM) for module in model.modules()):
        return f"the Mamba layers of this {type(model).__name__} are vlm_ssm's own: nothing to accelerate"
    seen = f"; it has {', '.join(kinds)}" if kinds else ""
    return (
        f"this {type(model).__name__} has no Mamba-1 layer of transformers{seen}; possible: models with a "
        f"{' or '.join(CLASSES)}, such as MambaForCausalLM and FalconMambaForCausalLM"
    )
