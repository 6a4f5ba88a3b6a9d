"""Layers that several connectors share."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "relu2"]


class SquaredReLU(nn.Module):
    """max(x, 0)², the activation of Nemotron's projectors."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}
ACTIVATIONS = {"gelu": nn.GELU, "relu2": SquaredReLU}


def mlp(*widths: int, activation: Activation = "gelu", bias: bool = True) -> nn.Sequential:
    """Linear layers from each width to the next, an activation between any two."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out, bias=bias), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
