"""The forward pass of transformers' `MambaMixer` and `FalconMambaMixer` on the backends of this package.

transformers is not imported: `accelerate` gives its layers a subclass with this forward pass. Parameters, submodules
and their names stay. The cache is transformers' own: convolution inputs (B, E, W) and recurrent state (B, E, S).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_ssm import ops
from vlm_ssm.layers import decode
from vlm_ssm.layers.hooked_modules import convolve, plain, plain_linear
from vlm_ssm.layers.mixer import SSMState
from vlm_ssm.mamba_layer import MambaStack
from vlm_ssm.registration.inputs import ScanInputs

NORMS = ("dt_layernorm", "b_layernorm", "c_layernorm")
"""FalconMamba's RMSNorms of Δ (before its projection), B and C."""


class LayerCache(NamedTuple):
    """The cache of one layer: `cache` is transformers', the tensors are None before the first token."""

    cache: Any
    layer: int
    conv: Tensor | None  # (B, E, W)
    ssm: Tensor | None  # (B, E, S)

    def state(self) -> SSMState | None:
        """The state as `MambaMixer` has it: the last W-1 inputs (B, W-1, E)."""
        if self.conv is None or self.ssm is None:
            return None
        return SSMState(self.conv[..., 1:].mT, self.ssm)

    def update(self, inner: Tensor, ssm: Tensor, taps: int) -> None:
        """Append the convolution inputs (B, T, E) of the last tokens, and replace the recurrent state."""
        self.cache.update_conv_state(inner.mT, self.layer, conv_kernel_size=taps)
        self.cache.update_recurrent_state(ssm, self.layer)

    def update_in_place(self, state: SSMState) -> None:
        """Replace the state by that after one more token."""
        assert self.conv is not None
        assert self.ssm is not None
        self.conv[..., :1] = self.conv[..., 1:2].clone()
        self.conv[..., 1:] = state.conv.mT
        self.ssm.copy_(state.ssm)


def why_not(mixer: Any) -> str | None:
    """Why a layer of transformers must compute its own forward pass; None if `VLMMixer` can."""
    if mixer.activation not in ("silu", "swish"):
        return f"its activation is {mixer.activation!r}, not 'silu'"
    for name, kind in (("conv1d", nn.Conv1d), ("dt_proj", nn.Linear)):
        if not plain(getattr(mixer, name), kind):
            return f"its {name} is hooked, wrapped or quantised"
    return None


class VLMMixer:
    """Mixin before transformers' class: `forward` with the same arguments, cache and result.

    A layer that it can't compute (`why_not`), or a cache that records the past for assisted decoding, gets the forward
    pass of transformers. Two differences: several tokens after a cached state continue from that state, where
    transformers restarts the recurrence from zeros; and a mask of all positions, past ones too, masks these tokens by
    its end, where transformers multiplies them by the whole mask.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles: the class was made at run time, so that its base is named."""
        return _empty, (type(self).__mro__[2],), vars(self)

    d_inner = property(lambda self: self.intermediate_size)
    d_state = property(lambda self: self.ssm_state_size)
    d_conv = property(lambda self: self.conv_kernel_size)
    dt_rank = property(lambda self: self.time_step_rank)

    def can_fuse(self: Any, dtype: torch.dtype) -> bool:
        """Whether a fused step in this dtype computes this layer, without the norms of FalconMamba."""
        modules = self._modules
        return (
            self.conv_kernel_size > 1
            and NORMS[0] not in modules
            and plain(modules["conv1d"], nn.Conv1d)
            and _fits(modules["dt_proj"], dtype)
            and all(
                plain_linear(modules[name], nn.Linear, dtype) for name in ("in_proj", "x_proj", "out_proj")
            )
        )

    def extra_repr(self) -> str:
        return "computed by vlm_ssm"

    def forward(
        self: Any,
        hidden_states: Tensor,
        cache: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states (B, T, M), attention_mask (B, T) -> (B, T, M); `cache` is changed in place.

        A mask of more positions is that of the past and of these tokens.
        """
        cache = kwargs.pop("cache_params", cache)  # its name before transformers 5.24
        if reason := _why_not_now(self, cache, kwargs):
            warnings.warn(f"a Mamba layer computes transformers' own forward pass: {reason}", stacklevel=2)
            forward = super().forward  # pyright: ignore[reportAttributeAccessIssue]
            return forward(hidden_states, cache=cache, attention_mask=attention_mask, **kwargs)
        if attention_mask is not None:
            attention_mask = attention_mask[:, -hidden_states.shape[1] :]
        past = _layer_cache(cache, self.layer_idx)
        state = None if past is None else past.state()
        if past and state and attention_mask is None and decode.can_fuse(hidden_states, [self]):
            return _decode(self, hidden_states, past, state)
        return _mix(self, hidden_states, attention_mask, past, state)


@cache
def accelerated(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a mixer of transformers with the forward pass of `VLMMixer`; it has the same name."""
    return type(kind.__name__, (VLMMixer, kind), {"__doc__": kind.__doc__})


def _why_not_now(mixer: Any, cache: Any, arguments: Mapping[str, Any]) -> str | None:
    """As `why_not`, for one call with this cache and arguments beyond those of `forward`."""
    if arguments:
        return f"it is called with {', '.join(arguments)}"
    if cache is not None and cache.is_recording_past(mixer.layer_idx):
        return "the cache records the past, for assisted decoding"
    return why_not(mixer)


def _fits(dt_proj: Any, dtype: torch.dtype) -> bool:
    """Whether the fused step can read this projection: plain, with a bias, of this dtype."""
    if not plain(dt_proj, nn.Linear) or dt_proj.bias is None:
        return False
    return dt_proj.weight.dtype == dtype and dt_proj.weight.is_contiguous()


def _empty(kind: type[nn.Module]) -> Any:
    made = accelerated(kind)
    return made.__new__(made)


def _layer_cache(cache: Any, layer: int) -> LayerCache | None:
    if cache is None:
        return None
    return LayerCache(
        cache, layer, cache.get_conv_state(layer, state_idx=0), cache.get_recurrent_state(layer, state_idx=0)
    )


def _decode(mixer: Any, x: Tensor, past: LayerCache, state: SSMState) -> Tensor:
    """One token (B, 1, M) in one fused call."""
    y, conv, ssm = decode.fused_decode_step(x, MambaStack([mixer]), [state.conv], [state.ssm])
    past.update_in_place(SSMState(conv[0], ssm[0]))
    return y


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, T, …) with zeros at padding; the recurrence leaves a state of zeros as it is there."""
    return x if mask is None else (x * mask[:, :, None]).to(x.dtype)


def _mix(
    mixer: Any, x: Tensor, mask: Tensor | None, past: LayerCache | None, state: SSMState | None
) -> Tensor:
    """Any number of tokens (B, T, M) from a state, or from zeros."""
    inner, z = mixer.in_proj(_masked(x, mask)).chunk(2, dim=-1)
    conv = None if state is None else state.conv
    u = convolve([mixer.conv1d], mixer.conv_kernel_size, inner.unsqueeze(2), conv)[0]
    y, last = _scan(mixer, _masked(u, mask), z, None if state is None else state.ssm)
    if past is not None:
        past.update(inner, last, mixer.conv_kernel_size)
    return mixer.out_proj(y.to(x.dtype))


def _scan(mixer: Any, u: Tensor, z: Tensor, ssm: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convolved inputs u and gate z (B, T, E) -> y (B, T, E), state (B, E, S)."""
    sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
    low, b, c = mixer.x_proj(u).split(sizes, dim=-1)
    if NORMS[0] in mixer._modules:
        low, b, c = (getattr(mixer, norm)(part) for norm, part in zip(NORMS, (low, b, c), strict=True))
    inputs = ScanInputs(
        u.unsqueeze(0),
        F.linear(low, mixer.dt_proj.weight).unsqueeze(0),
        -torch.exp(mixer.A_log.float()).unsqueeze(0),
        b[None, :, :, None],
        c[None, :, :, None],
        mixer.D.unsqueeze(0),
        None if mixer.dt_proj.bias is None else mixer.dt_proj.bias.unsqueeze(0),
        z.unsqueeze(2),
        h0=None if ssm is None else ssm.unsqueeze(0),
        softplus=True,
    )
    y, last = ops.scan(inputs)
    return y.squeeze(2), last.squeeze(0)
