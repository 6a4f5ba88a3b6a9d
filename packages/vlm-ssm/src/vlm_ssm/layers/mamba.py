"""`Mamba` with the arguments, parameters and `forward` of `mamba_ssm.Mamba`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vlm_ssm.layers.mixer import GatedSSM, cast_parameters
from vlm_ssm.runtime.errors import BackendError


class Mamba(GatedSSM):
    """The Mamba-1 layer, (B, T, M) -> (B, T, M), with the arguments and state dict of `mamba_ssm.Mamba`.

    Two differences: `A_log`, `D` and the bias of `dt_proj` stay fp32 whatever `dtype` is, and there is no inference
    cache: `MambaMixer`, with the same parameters, takes and returns the layer's state instead. Arguments after
    `dt_rank` are keyword-only. Raises `ValueError` for an unknown `dt_init`, and for `use_fast_path=False`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        *,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: Literal["random", "constant"] = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if dt_init not in ("random", "constant"):
            raise ValueError(f"dt_init is {dt_init!r}; possible: 'random', 'constant'")
        if not use_fast_path:
            raise ValueError(
                "use_fast_path=False is not supported; choose a backend instead: VLM_SCAN_BACKEND=torch"
            )
        super().__init__(d_model, d_state, d_conv, expand, None if dt_rank == "auto" else dt_rank)
        self.d_model, self.expand, self.layer_idx = d_model, expand, layer_idx
        self._init_dt(dt_min, dt_max, dt_init_floor)
        spread = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, spread)
        else:
            nn.init.uniform_(self.dt_proj.weight, -spread, spread)
        if not conv_bias:
            self.conv1d.bias = None
        if bias:
            self.in_proj = nn.Linear(d_model, 2 * self.d_inner)
            self.out_proj = nn.Linear(self.d_inner, d_model)
        if dtype is not None:
            cast_parameters(self, dtype)
        self.to(device=device)

    def forward(self, hidden_states: Tensor, inference_params: None = None) -> Tensor:
        """hidden_states (B, T, M) -> (B, T, M); raises `BackendError` if `inference_params` is given."""
        if inference_params is not None:
            raise BackendError(
                "vlm_ssm.Mamba has no inference cache: MambaMixer, with the same parameters, takes and returns a state"
            )
        y, _ = self.mix(hidden_states)
        return y
