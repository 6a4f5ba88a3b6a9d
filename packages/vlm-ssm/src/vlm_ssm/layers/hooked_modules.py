"""Submodules of a Mamba layer: their weights are passed to kernels, unless a module is hooked, wrapped or replaced.

Such a module is called instead. That is slower, but LoRA adapters, hooks, parametrisations and quantised layers work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_ssm import ops
from vlm_ssm.registration.torch_modes import has_global_hook
from vlm_ssm.segments import PAD, SegmentBoundaries
from vlm_ssm.torch.ops import along, with_past


class DeltaProjection(nn.Linear):
    """Projection of the low-rank Δ, before softplus; the bias is added in fp32 whatever the weight's dtype."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, R) -> (…, E) in fp32."""
        return F.linear(input, self.weight).float() + self.bias.float()


def has_no_hooks(module: nn.Module) -> bool:
    """Whether a module has no hooks and no replaced `forward`."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        or has_global_hook()
    )


def plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly of this type, its weight an ordinary parameter, and it has no hooks."""
    return type(module) is kind and "weight" in module._parameters and has_no_hooks(module)


def project(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """x (K, B, T, D) through one linear layer, or one for each direction -> (K, B, T, D')."""
    if len(layers) == 1:
        return layers[0](x)
    if all(plain(layer, nn.Linear) and layer._parameters["bias"] is None for layer in layers):
        return _times(layers, x)
    return torch.stack([layer(x_k) for layer, x_k in zip(layers, x, strict=True)])


def project_delta(layers: Sequence[Any], x: Tensor) -> tuple[Tensor, Tensor | None]:
    """As `project` -> Δ (K, B, T, E) and the bias (P, E) that the scan has to add; None if Δ includes it."""
    if not all(plain(layer, DeltaProjection) for layer in layers):
        each = list(layers) * (len(x) // len(layers))
        return torch.stack([layer(x_k) for layer, x_k in zip(each, x, strict=True)]), None
    delta = F.linear(x, layers[0].weight) if len(layers) == 1 else _times(layers, x)
    return delta, stacked([layer.bias for layer in layers])


def _times(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The projections of all directions as one batched product."""
    weight = torch.stack([layer.get_parameter("weight") for layer in layers]).to(x.dtype)
    return (x.flatten(1, 2) @ weight.mT).unflatten(1, x.shape[1:3])


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor for each module -> (P, …), without a copy if there is one."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def convolve(
    layers: Sequence[Any],
    taps: int,
    x: Tensor,
    state: Tensor | None = None,
    boundaries: SegmentBoundaries | None = None,
    scan_order: Tensor | None = None,
) -> Tensor:
    """As `ops.conv`, by one depthwise `Conv1d` with `taps` taps and `taps` - 1 zeros of padding, or one a direction."""
    if all(plain(layer, nn.Conv1d) for layer in layers):
        biases = [layer.bias for layer in layers if layer.bias is not None]
        weight = stacked([layer.weight.squeeze(1) for layer in layers])
        return ops.conv(x, weight, stacked(biases) if biases else None, state, boundaries, scan_order)
    rows = along(x, scan_order)
    each = list(layers) * (len(rows) // len(layers))
    padded = with_past(rows, state, boundaries, taps - 1)
    return torch.stack([_called(layer, p, taps, boundaries) for layer, p in zip(each, padded, strict=True)])


def _called(layer: nn.Module, padded: Tensor, taps: int, boundaries: SegmentBoundaries | None) -> Tensor:
    """SiLU of the module called on padded (B, taps - 1 + T, E) -> (B, T, E)."""
    length = padded.shape[1] - taps + 1
    if boundaries is None:
        return F.silu(_unrounded(layer, padded.mT)[..., taps - 1 : taps - 1 + length].mT).to(padded.dtype)
    windows = padded.unfold(1, taps, 1)  # (B, T, E, taps), the last tap is the position itself
    back = torch.arange(taps - 1, -1, -1, device=padded.device)
    windows = windows * (back <= boundaries.history.unsqueeze(-1)).unsqueeze(2)
    y = _unrounded(layer, windows.flatten(0, 1))[..., taps - 1].unflatten(0, windows.shape[:2])
    return F.silu(y).to(padded.dtype) * (boundaries.reset != PAD).unsqueeze(-1)


def _unrounded(layer: nn.Module, x: Tensor) -> Tensor:
    """Call a convolution in its parameters' dtype, as kernels compute it; autocast would round to bf16."""
    dtypes = {p.dtype for p in layer.parameters()}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating_point:
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(dtypes.pop()))


def add_rms_norm(residual: Tensor, out: Tensor | None, norm: nn.Module, eps: float) -> tuple[Tensor, Tensor]:
    """As `ops.add_rms_norm`, with the weight of a plain `nn.RMSNorm`; any other norm is called."""
    if plain(norm, nn.RMSNorm):
        return ops.add_rms_norm(residual, out, norm.get_parameter("weight"), eps)
    summed = residual if out is None else residual + out
    weight = getattr(norm, "weight", None)
    y = norm(summed)
    return summed, y.to(weight.dtype) if isinstance(weight, Tensor) and weight.is_floating_point() else y


def plain_linear(module: Any, kind: type[nn.Module], dtype: torch.dtype) -> bool:
    """Whether a fused kernel can read this linear layer: plain, of this dtype, a bias only in `DeltaProjection`."""
    if not plain(module, kind):
        return False
    weight, biased = module._parameters["weight"], module._parameters["bias"] is not None
    assert weight is not None
    return weight.dtype == dtype and weight.is_contiguous() and biased == (kind is DeltaProjection)
