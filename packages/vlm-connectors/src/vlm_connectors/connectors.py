"""Connectors of the paper's Table 4: patch grid (N, H, W, D) -> image tokens (N, L, M)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from vlm_connectors.layers import NORMS, Norm, mlp
from vlm_connectors.vss import VSS
from vlm_core.interfaces import Connector
from vlm_ssm.layers.layer_norm import norm_of_sum

if TYPE_CHECKING:
    from vlm_core.plugins.hooks import Scan


class PerPatch(Connector):
    """A connector with one image token per patch, in row-major order: L = H·W."""

    def num_tokens(self, h: int, w: int) -> int:
        return h * w

    def token_grid(self, h: int, w: int) -> tuple[int, int]:
        return h, w


class MLP(PerPatch):
    """V_out = MLP(V) with layers of these widths; two widths are one linear layer."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.mlp = mlp(*widths)

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(features).flatten(1, 2)


class VSSMLP(PerPatch):
    """Eq. 5: V_out = MLP(Norm(VSS(V) + V)), the scan at encoder width."""

    def __init__(self, d_in: int, d_out: int, vss: VSS, *, norm: Norm = "layernorm") -> None:
        super().__init__()
        self.vss, self.norm, self.mlp = vss, NORMS[norm](d_in, eps=1e-5), mlp(d_in, d_out, d_out)

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(norm_of_sum(self.norm, self.vss(features), features)).flatten(1, 2)


class VSSL2(PerPatch):
    """Eq. 6: V' = Linear(V); V_out = Linear(Norm(VSS(GELU(V')) + V')). The skip is taken before the GELU."""

    def __init__(self, d_in: int, d_out: int, vss: VSS, *, norm: Norm = "layernorm") -> None:
        super().__init__()
        self.project, self.vss = nn.Linear(d_in, d_out), vss
        self.norm, self.out = NORMS[norm](d_out, eps=1e-5), nn.Linear(d_out, d_out)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        return self.out(norm_of_sum(self.norm, self.vss(F.gelu(projected)), projected)).flatten(1, 2)


def vss_mlp(d_in: int, d_out: int, *, scan: Scan, norm: Norm, **vss: Any) -> VSSMLP:
    """Build `VSSMLP` from plain values; `vss` are further arguments of `VSS`."""
    return VSSMLP(d_in, d_out, VSS(d_in, scan, **vss), norm=norm)


def vss_l2(d_in: int, d_out: int, *, scan: Scan, norm: Norm, **vss: Any) -> VSSL2:
    """Build `VSSL2`; arguments as `vss_mlp`."""
    return VSSL2(d_in, d_out, VSS(d_out, scan, **vss), norm=norm)


def layers(d_in: int, d_out: int, *, depth: int, hidden: int | None) -> MLP:
    """`depth` linear layers: `hidden` is the width after the first, the model's if None."""
    return MLP(d_in, hidden or d_out, *[d_out] * (depth - 1))
