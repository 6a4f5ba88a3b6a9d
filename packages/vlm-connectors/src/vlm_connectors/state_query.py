"""The connector `state-query`: learned queries that are read out of a 2D scan, (N, H, W, D) -> (N, Q, M)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm_connectors.reducers import sincos_like
from vlm_core.interfaces import Connector
from vlm_ssm import SelectiveSSM, scan_along
from vlm_ssm.registration.scan_orders import keep_inverse

if TYPE_CHECKING:
    from vlm_core.plugins.hooks import Scan

Placement = Literal["spread", "end"]
MAP = 16
"""Positions are in units of a MAP × MAP map over the image, as Qwen-VL's."""
_CPU = torch.device("cpu")


def cells(queries: int) -> tuple[int, int]:
    """Rows and columns of the most square map with so many cells: 16 is 4 × 4, 6 is 2 × 3, 5 is 1 × 5."""
    rows = next(n for n in range(math.isqrt(queries), 0, -1) if queries % n == 0)
    return rows, queries // rows


def with_queries(scan: Scan, h: int, w: int, queries: int, placement: Placement) -> list[list[int]]:
    """The mechanism's K lists with the queries, which are numbered from h·w on: all at the end, or `spread`.

    Spread: each follows the patch at the centre of its cell, in every direction; `cells` lie over the image row by row.
    """
    numbers = range(h * w, h * w + queries)
    if placement == "end":
        return [[*order, *numbers] for order in scan(h, w)]
    rows, columns = cells(queries)
    centres = [
        (2 * i + 1) * h // (2 * rows) * w + (2 * j + 1) * w // (2 * columns)
        for i in range(rows)
        for j in range(columns)
    ]
    after: dict[int, list[int]] = {}
    for number, patch in zip(numbers, centres, strict=True):
        after.setdefault(patch, []).append(number)
    return [[token for patch in order for token in (patch, *after.get(patch, ()))] for order in scan(h, w)]


@lru_cache(maxsize=64)
def _orders(
    scan: Scan, h: int, w: int, queries: int, placement: Placement, device: torch.device = _CPU
) -> Tensor:
    """`with_queries` as a tensor (K, H·W + Q), made, checked, inverted and copied to a device once for each grid."""
    with torch.inference_mode(False):  # what a prediction cached must serve training, too
        if device != _CPU:
            return keep_inverse(_orders(scan, h, w, queries, placement).to(device))
        return keep_inverse(torch.tensor(with_queries(scan, h, w, queries, placement), device="cpu"))


class StateQuery(Connector):
    """`queries` learned tokens among the patches of a 2D scan; what the scan returns at their places is the image.

    Patches and queries become x = Norm(·) + sines and cosines of their place in the image. One Mamba layer runs along
    the K scan orders of patches and queries; its outputs y at the queries are summed over directions, and
    V_out = Linear(Norm(y + x_query)). Gate and out_proj act on single tokens, so they run for the queries only.

    `placement`: with `spread` a query stands in each direction behind the patch at the centre of its cell of the image;
    with `end` all stand behind the last patch. A scan with the reverse of each order, as `bsm` and `csm`, shows every
    query every patch. At the end all queries read the same state: without the convolution each channel of their outputs
    is linear in its K · `d_state` numbers, so more queries than that hold nothing more of the image.

    `parameters`: `shared`, or convolution, Δ, B, C, A and D of each direction (`ssm`).

    Resembles learned queries with cross-attention (Perceiver, Q-Former, Qwen-VL's `resampler`), with a scan in place of
    attention, so that the cost is linear in patches plus queries; and register tokens spread through a Vision Mamba's
    sequence (Mamba-R, arXiv 2405.14858), which there classify an image. As a connector, with queries that lie in the
    image and with these positions, it is this project's own; no publication of it is known.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        scan: Scan,
        *,
        queries: int = 16,
        placement: Placement = "spread",
        parameters: Literal["shared", "ssm"] = "shared",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        super().__init__()
        self.scan, self.placement, d_inner = scan, placement, expand * d_out
        self.query = nn.Parameter(torch.empty(queries, d_out))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.project = nn.Linear(d_in, d_out)
        self.norm_patch, self.norm_query, self.norm = (nn.LayerNorm(d_out, eps=1e-5) for _ in range(3))
        self.in_proj, self.gate = (nn.Linear(d_out, d_inner, bias=False) for _ in range(2))
        self.ssms = nn.ModuleList(
            SelectiveSSM(d_inner, d_state, d_conv, math.ceil(d_out / 16))
            for _ in range(len(scan(1, 1)) if parameters == "ssm" else 1)
        )
        self.out_proj = nn.Linear(d_inner, d_out, bias=False)
        self.out = nn.Linear(d_out, d_out)

    def num_tokens(self, h: int, w: int) -> int:
        return len(self.query)

    def forward(self, features: Tensor) -> Tensor:
        (n, h, w), queries = features.shape[:3], len(self.query)
        patches = self.norm_patch(self.project(features.flatten(1, 2))) + self._places(h, w)
        query = self.norm_query(self.query) + self._places(*cells(queries))
        x = torch.cat([self.in_proj(patches), self.in_proj(query).expand(n, -1, -1)], 1)
        scan_order = _orders(self.scan, h, w, queries, self.placement, x.device)
        y, _ = scan_along([*self.ssms], x.unsqueeze(2), None, scan_order)  # pyright: ignore[reportArgumentType]
        read = y.squeeze(2)[:, h * w :] * F.silu(self.gate(query))
        return self.out(self.norm(self.out_proj(read) + query))

    def _places(self, h: int, w: int) -> Tensor:
        return sincos_like(self.query, h, w, MAP)
