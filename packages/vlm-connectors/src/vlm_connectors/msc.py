"""ML-Mamba's Mamba-2 Scan Connector (arXiv 2407.19832, section 3; its code's `Bidirectional_Mamba`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm_connectors.connectors import PerPatch
from vlm_connectors.layers import mlp
from vlm_connectors.vss import tables
from vlm_core.plugins.hooks import Scan
from vlm_ssm import ops
from vlm_ssm.layers.hooked_modules import convolve, plain
from vlm_ssm.registration.inputs import ScanInputs


class HeadSSM(nn.Module):
    """Per-direction parameters of a Mamba-2 layer; names and initial values of `mamba_ssm.Mamba2`."""

    def __init__(self, d_inner: int, heads: int, d_state: int, d_conv: int) -> None:
        super().__init__()
        width = d_inner + 2 * d_state
        self.conv1d = nn.Conv1d(width, width, d_conv, groups=width, padding=d_conv - 1)
        dt = torch.exp(torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))


class Mamba2Scan(nn.Module):
    """One Mamba-2 layer along the K scan orders of a 2D scan.

    The directions share in_proj (and with it Δ, B and C before the convolution), gated norm and out_proj; each has
    its own convolution, Δ's bias, A and D. Their normed outputs are averaged. In Mamba-2 A, Δ and D are one number
    per head, so this is the selective scan with that number repeated over the head's channels and states.
    """

    def __init__(
        self,
        dim: int,
        scan: Scan,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
    ) -> None:
        super().__init__()
        self.scan, self.head_dim, self.d_conv, d_inner = scan, head_dim, d_conv, expand * dim
        heads = d_inner // head_dim
        self.sizes = [d_inner, d_inner + 2 * d_state, heads]
        self.in_proj = nn.Linear(dim, sum(self.sizes), bias=False)
        self.ssms = nn.ModuleList(HeadSSM(d_inner, heads, d_state, d_conv) for _ in scan(1, 1))
        self.norm = nn.RMSNorm(d_inner, eps=1e-5)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        """(N, H, W, D) -> (N, H, W, D)."""
        h, w = v.shape[1:3]
        scan_order = tables(self.scan, h, w, v.device)
        z, x, dt = self.in_proj(v.flatten(1, 2)).split(self.sizes, dim=-1)
        y = self._along(x, dt, scan_order).float() * F.silu(z.float()).unsqueeze(2)
        return self.out_proj(self._normed(y).mean(2).to(v.dtype)).unflatten(1, (h, w))

    def _normed(self, y: Tensor) -> Tensor:
        """RMSNorm in fp32; a hooked, wrapped or replaced norm is called."""
        if not plain(self.norm, nn.RMSNorm):
            return self.norm(y)
        return F.rms_norm(y, y.shape[-1:], self.norm.weight.float(), self.norm.eps)

    def _along(self, x: Tensor, dt: Tensor, scan_order: Tensor) -> Tensor:
        """x (N, T, E + 2S) and dt (N, T, heads) in patch order -> y (N, T, K, E)."""
        width = self.sizes[0]
        states = (x.shape[-1] - width) // 2
        convs = [ssm.conv1d for ssm in self.ssms]
        u = convolve(convs, self.d_conv, x.unsqueeze(2), scan_order=scan_order)
        u, b, c = u.split([width, states, states], dim=-1)
        step = self._channels(dt[:, scan_order].transpose(0, 1))
        a = self._channels(-torch.exp(self._stack("A_log").float())).unsqueeze(-1).expand(-1, -1, states)
        inputs = ScanInputs(
            u,
            step,
            a,
            b.unsqueeze(3),
            c.unsqueeze(3),
            self._channels(self._stack("D")),
            self._channels(self._stack("dt_bias")),
            scan_order=scan_order,
            softplus=True,
            keep_directions=True,
        )
        y, _ = ops.scan(inputs)
        return y

    def _stack(self, name: str) -> Tensor:
        """A parameter of every direction -> (K, …)."""
        return torch.stack([ssm.get_parameter(name) for ssm in self.ssms])

    def _channels(self, heads: Tensor) -> Tensor:
        """(…, heads) -> (…, E)."""
        return heads.repeat_interleave(self.head_dim, dim=-1)


class SwiGLU(nn.Module):
    """SiLU(W1 x) · W2 x, then W3, all of one width and with biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class Block(nn.Module):
    """h + Mamba2(h), no norm before it; then h + SwiGLU(LayerNorm(h)) if `swiglu`."""

    def __init__(self, dim: int, mixer: Mamba2Scan, swiglu: bool) -> None:
        super().__init__()
        self.mixer = mixer
        self.mlp = nn.Sequential(nn.LayerNorm(dim), SwiGLU(dim)) if swiglu else None

    def forward(self, v: Tensor) -> Tensor:
        v = v + self.mixer(v)
        return v if self.mlp is None else v + self.mlp(v)


class MSC(PerPatch):
    """Linear–GELU, `blocks` of scan and SwiGLU, LayerNorm, then Cobra's three-layer MLP, all at model width."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        scan: Scan,
        *,
        blocks: int = 2,
        swiglu: bool = True,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(d_in, d_out)
        mixers = (
            Mamba2Scan(d_out, scan, d_state=d_state, d_conv=d_conv, expand=expand, head_dim=head_dim)
            for _ in range(blocks)
        )
        self.blocks = nn.Sequential(*(Block(d_out, mixer, swiglu) for mixer in mixers))
        self.norm, self.mlp = nn.LayerNorm(d_out), mlp(d_out, 4 * d_out, d_out, d_out)

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(self.norm(self.blocks(F.gelu(self.project(features))))).flatten(1, 2)
