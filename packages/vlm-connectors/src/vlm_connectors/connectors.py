"""The connectors of the paper's Table 4, on a patch grid (N, H, W, D) -> visual tokens (N, L, M)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vlm_connectors.vss import VSS
from vlm_core.interfaces import Connector

NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}
Norm = Literal["layernorm", "rmsnorm"]


def two_layers(d_in: int, d_out: int) -> nn.Sequential:
    """Linear–GELU–Linear, the mlp2x_gelu of LLaVA-1.5."""
    return nn.Sequential(nn.Linear(d_in, d_out), nn.GELU(), nn.Linear(d_out, d_out))


class MLP(Connector):
    """V_out = MLP(V)."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.mlp = two_layers(d_in, d_out)

    def num_tokens(self, h: int, w: int) -> int:
        return h * w

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(features).flatten(1, 2)


class VSSMLP(Connector):
    """Eq. 5: V_out = MLP(Norm(VSS(V) + V)), the scan at encoder width."""

    def __init__(self, d_in: int, d_out: int, vss: VSS, *, norm: Norm = "layernorm") -> None:
        super().__init__()
        self.vss, self.norm, self.mlp = vss, NORMS[norm](d_in, eps=1e-5), two_layers(d_in, d_out)

    def num_tokens(self, h: int, w: int) -> int:
        return h * w

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(self.norm(self.vss(features) + features)).flatten(1, 2)


class VSSL2(Connector):
    """Eq. 6: V' = Linear(V); V_out = Linear(Norm(VSS(GELU(V')) + V')). The skip is taken before the GELU."""

    def __init__(self, d_in: int, d_out: int, vss: VSS, *, norm: Norm = "layernorm") -> None:
        super().__init__()
        self.project, self.vss = nn.Linear(d_in, d_out), vss
        self.norm, self.out = NORMS[norm](d_out, eps=1e-5), nn.Linear(d_out, d_out)

    def num_tokens(self, h: int, w: int) -> int:
        return h * w

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        return self.out(self.norm(self.vss(F.gelu(projected)) + projected)).flatten(1, 2)
