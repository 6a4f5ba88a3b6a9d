"""The protocols of layers that inference without calls of submodules accepts; `layers.mixer` implements them."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class MambaParts(Protocol):
    """The sizes, submodules and parameters of a Mamba-1 layer, by the attribute names of `mamba_ssm.Mamba`."""

    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    in_proj: Any
    conv1d: Any
    x_proj: Any
    dt_proj: Any
    out_proj: Any
    A_log: Any
    D: Any
    _modules: dict[str, Any]
    _parameters: dict[str, Any]


class MambaLayer(MambaParts, Protocol):
    """A layer that fused decoding accepts."""

    def can_fuse(self, dtype: torch.dtype) -> bool:
        """Whether a fused step in this dtype computes what the layer's `forward` computes."""
        ...
