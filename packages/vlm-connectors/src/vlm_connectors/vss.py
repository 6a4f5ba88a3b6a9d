"""The Vision Selective Scan module: unfold a patch grid along K routes, one Mamba layer, merge."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_core.hooks import Scan
from vlm_core.ssm import MambaMixer, SelectiveSSM, grouped_ssm


@lru_cache(maxsize=64)
def tables(scan: Scan, h: int, w: int) -> tuple[Tensor, Tensor]:
    """The mechanism's permutations (K, H·W) and their inverses, checked once for each grid."""
    routes = torch.tensor(scan(h, w), device="cpu")
    expected = torch.arange(h * w, device="cpu").expand(len(routes), -1)
    if routes.ndim != 2 or not torch.equal(routes.sort(-1).values, expected):
        raise ValueError(f"scan {scan!r} must give permutations of range({h * w}) for a {h}×{w} grid")
    return routes, routes.argsort(-1)


class VSS(nn.Module):
    """2D scan → one Mamba layer → merge, at one width (paper, section 3.2.3).

    `parameters` is what the K directions have of their own: `shared` nothing (one layer, the literal text),
    `ssm` conv, x_proj, dt, A and D (as Vim v2 and VMamba), `full` a whole layer. Whatever is shared is
    computed once a token, and all directions run in one scan.
    """

    def __init__(
        self,
        dim: int,
        scan: Scan,
        *,
        parameters: Literal["shared", "ssm", "full"] = "shared",
        merge: Literal["sum", "mean"] = "sum",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        super().__init__()
        self.scan, self.parameters_of, self.merge = scan, parameters, merge
        directions = len(scan(1, 1))
        self.mixers = nn.ModuleList(
            MambaMixer(dim, d_state, d_conv, expand) for _ in range(directions if parameters == "full" else 1)
        )
        first = self.mixers[0]
        assert isinstance(first, MambaMixer)
        self.ssms = nn.ModuleList(
            SelectiveSSM(first.d_inner, d_state, d_conv, first.dt_rank)
            for _ in range(directions - 1 if parameters == "ssm" else 0)
        )

    def forward(self, v: Tensor) -> Tensor:
        """(N, H, W, D) -> (N, H, W, D)."""
        h, w = v.shape[1:3]
        routes, inverse = (t.to(v.device) for t in tables(self.scan, h, w))
        flat = v.flatten(1, 2)
        merged = self._full(flat, routes, inverse) if self.parameters_of == "full" else self._hoisted(
            flat, routes, inverse
        )  # fmt: skip
        if self.merge == "mean":
            merged = merged / len(routes)
        return merged.unflatten(1, (h, w))

    def _hoisted(self, v: Tensor, routes: Tensor, inverse: Tensor) -> Tensor:
        """in_proj, gate and out_proj act on single tokens, so they run once, whatever K is."""
        mixer = self.mixers[0]
        assert isinstance(mixer, MambaMixer)
        x, z = mixer.in_proj(v).chunk(2, dim=-1)
        y = _merge(self._directions(mixer, x[:, routes]), inverse)
        return mixer.out_proj((y.float() * F.silu(z.float())).to(y.dtype))

    def _directions(self, mixer: MambaMixer, x: Tensor) -> Tensor:
        """x (N, K, L, E), already in scan order -> (N, K, L, E), ungated."""
        if len(self.ssms):
            return grouped_ssm([mixer, *self.ssms], x)  # pyright: ignore[reportArgumentType]
        y, _ = mixer.scan(x.flatten(0, 1))
        return y.unflatten(0, x.shape[:2])

    def _full(self, v: Tensor, routes: Tensor, inverse: Tensor) -> Tensor:
        """A layer of its own for each direction; convolution and scan of all still run as one."""
        pairs = [m.in_proj(v).chunk(2, dim=-1) for m in self.mixers]  # pyright: ignore
        x = torch.stack([x[:, route] for (x, _), route in zip(pairs, routes, strict=True)], dim=1)
        y = grouped_ssm(list(self.mixers), x)  # pyright: ignore[reportArgumentType]
        outs = []
        for k, (mixer, (_, z)) in enumerate(zip(self.mixers, pairs, strict=True)):
            gated = y[:, k, inverse[k]].float() * F.silu(z.float())
            outs.append(mixer.out_proj(gated.to(y.dtype)))  # pyright: ignore
        return torch.stack(outs).sum(0)


def _merge(y: Tensor, inverse: Tensor) -> Tensor:
    """(N, K, L, E) in scan order -> (N, L, E) in row-major order, summed over directions."""
    return torch.stack([y[:, k, order] for k, order in enumerate(inverse)]).sum(0)
