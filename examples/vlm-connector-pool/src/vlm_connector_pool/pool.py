"""The module behind `type: pool`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vlm_core.interfaces import Connector


class PoolConnector(Connector):
    """(N, H, W, D) -> (N, ceil(H / stride) * ceil(W / stride), M), row by row."""

    def __init__(self, d_in: int, d_out: int, *, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        self.project = nn.Sequential(nn.Linear(d_in, d_out), nn.GELU(), nn.Linear(d_out, d_out))

    def num_tokens(self, h: int, w: int) -> int:
        return -(-h // self.stride) * -(-w // self.stride)

    def forward(self, features: Tensor) -> Tensor:
        # ceil_mode keeps partial windows at the right and lower edges, averaged over the patches in them
        pooled = F.avg_pool2d(features.permute(0, 3, 1, 2), self.stride, ceil_mode=True)
        return self.project(pooled.flatten(2).transpose(1, 2))
