"""The protocols of layers that inference without calls of submodules accepts; `layers.mixer` implements them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


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


class MambaStack(NamedTuple):
    """Layers `residual += mixer(norm(residual))` and a last norm; without norms one mixer and no residual.

    `norms`: weights (M) of RMSNorms with `eps`, or None.
    """

    mixers: Sequence[MambaLayer]
    norms: Sequence[Tensor | None] = (None,)
    last_norm: Tensor | None = None
    eps: float = 0.0
