"""Activation function of a tower: identified by its values, replaced by another of the GELU family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_core.errors import UserError


class QuickGELU(nn.Module):
    """x·σ(1.702 x), the approximation that OpenAI trained CLIP with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


GELUS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "quick_gelu": QuickGELU,
}
"""Interchangeable without an error: weights trained with one run with another, and give wrong features."""
_OTHERS = {"silu": F.silu, "relu": F.relu, "hardswish": F.hardswish, "relu6": F.relu6}
_PROBE = (-2.5, -1.0, -0.3, 0.4, 1.5, 7.0)


def activation_name(module: nn.Module) -> str | None:
    """The activation that a module without children and parameters computes; None for any other module."""
    if any(True for _ in module.children()) or any(True for _ in module.parameters()):
        return None
    probe = torch.tensor(_PROBE, device="cpu")
    try:
        with torch.device("cpu"):
            values = module(probe.clone())
    except Exception:  # a module that takes more than one tensor is no activation
        return None
    if not isinstance(values, Tensor) or values.shape != probe.shape:
        return None
    known = {**{name: make() for name, make in GELUS.items()}, **_OTHERS}
    return next((name for name, fn in known.items() if torch.allclose(fn(probe), values, atol=1e-5)), None)


def activation_of(model: nn.Module) -> str | None:
    """The most frequent activation among a model's modules; None if there is none."""
    names: dict[str, str | None] = {}
    counts: Counter[str] = Counter()
    for module in model.modules():
        kind = f"{type(module)} {module.extra_repr()}"
        if kind not in names:
            names[kind] = activation_name(module)
        if name := names[kind]:
            counts[name] += 1
    return counts.most_common(1)[0][0] if counts else None


def set_activation(model: nn.Module, wanted: str, source: str) -> None:
    """Replace every GELU by `wanted`; `UserError` if the model has none that can be replaced."""
    present = activation_of(model)
    if present == wanted:
        return
    if wanted not in GELUS or present not in GELUS:
        raise UserError(
            f"{source}: activation {wanted}, but this tower computes {present or 'none that is known'}; possible in "
            f"place of one another: {', '.join(GELUS)}"
        )
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if activation_name(child) in GELUS:
                setattr(module, name, GELUS[wanted]())
