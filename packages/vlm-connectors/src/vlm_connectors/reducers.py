"""Connectors with fewer image tokens than patches: (N, H, W, D) -> (N, L, M)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm_connectors.layers import NORMS, Activation, Norm, mlp
from vlm_core.errors import UserError
from vlm_core.interfaces import Connector


class PixelShuffle(Connector):
    """Concatenates `factor` × `factor` neighbours into one token, then norm and Linear–activation–Linear.

    As InternVL 1.5 and later (LayerNorm, GELU, its v2 order of the neighbours; 448 px give 32×32 patches and
    256 tokens) and Nemotron Nano V2 VL (RMSNorm, squared ReLU, no biases, hidden width 20480). A token holds its
    neighbours row by row. Raises `UserError` for a grid that `factor` doesn't divide.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        factor: int = 2,
        hidden: int | None = None,
        norm: Norm | Literal["none"] = "layernorm",
        activation: Activation = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.factor, width = factor, factor**2 * d_in
        self.norm = nn.Identity() if norm == "none" else NORMS[norm](width, eps=1e-5)
        self.mlp = mlp(width, hidden or d_out, d_out, activation=activation, bias=bias)

    def num_tokens(self, h: int, w: int) -> int:
        if h % self.factor or w % self.factor:
            raise UserError(
                f"pixel-shuffle joins {self.factor}×{self.factor} patches, which doesn't divide a grid of {h}×{w}: "
                "choose another factor or an image_size of the encoder that gives a grid it divides; "
                "ldpv2 and resampler take any grid"
            )
        return (h // self.factor) * (w // self.factor)

    def token_grid(self, h: int, w: int) -> tuple[int, int]:
        return h // self.factor, w // self.factor

    def forward(self, features: Tensor) -> Tensor:
        self.num_tokens(*features.shape[1:3])
        joined = features.unflatten(1, (-1, self.factor)).unflatten(3, (-1, self.factor)).transpose(2, 3)
        return self.mlp(self.norm(joined.flatten(3).flatten(1, 2)))


class LDPv2(Connector):
    """MobileVLM V2's lightweight downsample projector (arXiv 2402.03766, section 3.3).

    Linear–GELU–Linear on each patch, average pooling to `grid` × `grid`, and a 3×3 depthwise convolution with a
    skip, which encodes positions. MobileVLM V2 pools 24×24 to 12×12, Cobra 27×27 to 14×14: windows
    overlap if the grid is not divisible, so every patch contributes. Raises `UserError` for a smaller grid.
    """

    def __init__(self, d_in: int, d_out: int, *, grid: int = 12, hidden: int | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.mlp = mlp(d_in, hidden or d_out, d_out)
        self.position = nn.Conv2d(d_out, d_out, 3, padding=1, groups=d_out)

    def num_tokens(self, h: int, w: int) -> int:
        if min(h, w) < self.grid:
            raise UserError(
                f"ldpv2 pools to {self.grid}×{self.grid} tokens, more than a grid of {h}×{w} patches has; "
                f"set connector.grid to at most {min(h, w)}"
            )
        return self.grid**2

    def token_grid(self, h: int, w: int) -> tuple[int, int]:
        return self.grid, self.grid

    def forward(self, features: Tensor) -> Tensor:
        self.num_tokens(*features.shape[1:3])
        pooled = F.adaptive_avg_pool2d(self.mlp(features).permute(0, 3, 1, 2), self.grid)
        return (self.position(pooled) + pooled).flatten(2).transpose(1, 2)


@lru_cache(maxsize=64)
def sincos(h: int, w: int, dim: int, grid: int) -> Tensor:
    """Position encodings of an (h, w) grid -> (h*w, dim), fp32: half of `dim` for the column, half for the row.

    Sines and cosines of the patch centres, in units of a grid × grid map over the image, whatever h and w are.
    """
    frequency = 10_000.0 ** -(torch.arange(dim // 4, device="cpu") / (dim // 4))
    rows, columns = ((torch.arange(n, device="cpu") + 0.5) * (grid / n) - 0.5 for n in (h, w))
    waves = [torch.cat([f(p.outer(frequency)) for f in (torch.sin, torch.cos)], -1) for p in (rows, columns)]
    row, column = waves[0].unsqueeze(1).expand(h, w, -1), waves[1].expand(h, w, -1)
    return torch.cat([column, row], -1).flatten(0, 1)


_encodings = lru_cache(maxsize=64)(lambda h, w, dim, grid, like: sincos(h, w, dim, grid).to(*like))


def sincos_like(query: Tensor, h: int, w: int, grid: int) -> Tensor:
    """`sincos` of the query's width, on its device and in its dtype, made and copied there once.

    A copy from the host in every forward pass makes it wait, and can't be part of a CUDA graph.
    """
    dim, like = query.shape[-1], (query.device, query.dtype)
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():  # tensors without values
        return sincos(h, w, dim, grid).to(*like)
    with torch.inference_mode(False):  # what a prediction cached must serve training, too
        return _encodings(h, w, dim, grid, like)


class Resampler(Connector):
    """`grid` × `grid` learned queries that attend to all patches in one cross-attention.

    As Qwen-VL's adapter (arXiv 2308.12966, section 2.1) and MiniCPM-V's, after Flamingo's Perceiver: queries and
    keys have 2D sine and cosine position encodings, values have none. Qwen-VL resizes a fixed table to the grid; here
    the encodings are computed at the patch centres, so any grid works. Then a norm and a linear layer, as in both.
    """

    def __init__(self, d_in: int, d_out: int, *, grid: int = 16, head_dim: int = 128) -> None:
        super().__init__()
        self.grid = grid
        self.query = nn.Parameter(torch.empty(grid**2, d_out))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.project = nn.Linear(d_in, d_out, bias=False)
        self.norm_query, self.norm_patch, self.norm = (nn.LayerNorm(d_out, eps=1e-6) for _ in range(3))
        self.attention = nn.MultiheadAttention(d_out, d_out // head_dim, batch_first=True)
        self.out = nn.Linear(d_out, d_out, bias=False)

    def num_tokens(self, h: int, w: int) -> int:
        return self.grid**2

    def forward(self, features: Tensor) -> Tensor:
        h, w = features.shape[1:3]
        patches = self.norm_patch(self.project(features.flatten(1, 2)))
        query = self.norm_query(self.query) + self._position_encoding(self.grid, self.grid)
        keys = patches + self._position_encoding(h, w)
        attended, _ = self.attention(query.expand(len(patches), -1, -1), keys, patches, need_weights=False)
        return self.out(self.norm(attended))

    def _position_encoding(self, h: int, w: int) -> Tensor:
        return sincos_like(self.query, h, w, self.grid)
