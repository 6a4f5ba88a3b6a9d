"""Vision Selective Scan (VSS) module: a patch grid in K scan directions through a Mamba layer, then merged."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_ssm import MambaMixer, SelectiveSSM, scan_along
from vlm_ssm.layers.hooked_modules import has_no_hooks
from vlm_ssm.layers.joint_projections import can_join, project_for_each, sum_of_projections
from vlm_ssm.registration.scan_orders import inverse_of, keep_inverse

if TYPE_CHECKING:
    from vlm_core.plugins.hooks import Scan


_CPU = torch.device("cpu")


@lru_cache(maxsize=64)
def tables(scan: Scan, h: int, w: int, device: torch.device = _CPU) -> Tensor:
    """The mechanism's permutations (K, H·W), made, checked, inverted and copied to a device once for each grid."""
    with torch.inference_mode(False):  # what a prediction cached must serve training, too
        return keep_inverse(_checked(scan, h, w) if device == _CPU else tables(scan, h, w).to(device))


def _checked(scan: Scan, h: int, w: int) -> Tensor:
    scan_order = torch.tensor(scan(h, w), device="cpu")
    expected = torch.arange(h * w, device="cpu").expand(len(scan_order), -1)
    if scan_order.ndim != 2 or not torch.equal(scan_order.sort(-1).values, expected):
        raise ValueError(f"scan {scan!r} must give permutations of range({h * w}) for a {h}×{w} grid")
    return scan_order


class VSS(nn.Module):
    """2D scan → one Mamba layer → merge, at one width (paper, section 3.2.3).

    `parameters` are those that each of the K directions has: `shared` none (one layer, as the paper's text), `ssm`
    conv, x_proj, dt, A and D (as Vim v2 and VMamba), `full` a whole layer. Shared projections run once per token, and
    all directions run in one scan.
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
        scan_order = tables(self.scan, h, w, v.device)
        merged = self._mix()(v.flatten(1, 2), scan_order)
        if self.merge == "mean":
            merged = merged / len(scan_order)
        return merged.unflatten(1, (h, w))

    def _mix(self) -> Callable[[Tensor, Tensor], Tensor]:
        """All directions in one call, or, if a mixer is hooked, wrapped or replaced, a call of it for each."""
        if not all(type(mixer) is MambaMixer and has_no_hooks(mixer) for mixer in self.mixers):
            return self._called
        return self._full if self.parameters_of == "full" else self._hoisted

    def _called(self, v: Tensor, scan_order: Tensor) -> Tensor:
        """Each direction through a call of its mixer, on the tokens in its order."""
        if len(self.ssms):
            raise UserError(
                "the connector's directions share one mixer (parameters: ssm), which is never called as a module: "
                "hook, wrap or replace its in_proj, x_proj, dt_proj or out_proj instead"
            )
        mixers = list(self.mixers) * (len(scan_order) // len(self.mixers))
        orders = zip(mixers, scan_order, inverse_of(scan_order), strict=True)
        outs = [mixer(v[:, order])[0][:, inverse] for mixer, order, inverse in orders]
        return torch.stack(outs).sum(0)

    def _hoisted(self, v: Tensor, scan_order: Tensor) -> Tensor:
        """in_proj, gate and out_proj act on single tokens, so they run once, whatever K is."""
        mixer = self.mixers[0]
        assert isinstance(mixer, MambaMixer)
        x, z = mixer.in_proj(v).unsqueeze(2).chunk(2, dim=-1)
        y, _ = scan_along([mixer, *self.ssms], x, z, scan_order)  # pyright: ignore[reportArgumentType]
        return mixer.out_proj(y.squeeze(2))

    def _full(self, v: Tensor, scan_order: Tensor) -> Tensor:
        """A layer for each direction; convolution and scan of all still run in one call."""
        mixers = [m for m in self.mixers if isinstance(m, MambaMixer)]
        ins, outs = [m.in_proj for m in mixers], [m.out_proj for m in mixers]
        if can_join([*ins], v) and can_join([*outs], v):
            y, _ = scan_along(mixers, *project_for_each(ins, v), scan_order)
            return sum_of_projections(outs, y)
        x, z = torch.stack([m.in_proj(v) for m in mixers], dim=2).chunk(2, dim=-1)
        y, _ = scan_along(mixers, x, z, scan_order)
        return torch.stack([out(y_k) for out, y_k in zip(outs, y.unbind(2), strict=True)]).sum(0)
