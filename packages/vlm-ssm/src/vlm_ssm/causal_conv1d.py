"""The causal depthwise convolution with the names and layouts of `causal_conv1d.causal_conv1d_fn`."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm import ops
from vlm_ssm.registration.inputs import ConvInputs
from vlm_ssm.registration.torch_modes import without_autocast
from vlm_ssm.segments import PAD, PADDING, SegmentBoundaries, boundaries_of
from vlm_ssm.torch.ops import after, conv_sum


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    *,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """y_t = act(bias + Σ_j weight_j · x_{t-W+1+j}) per channel, as `causal_conv1d.causal_conv1d_fn`.

    Unlike that function it takes any width W, x in any memory layout, and `seq_idx` together with states.

    Args:
        x: (B, D, T).
        weight, bias: (D, W) and (D).
        seq_idx: (B, T) integers. A window does not reach over a change of the number; equal numbers must be contiguous.
            Numbers below 0 are padding, where y is 0.
        initial_states: (B, D, W-1), the inputs before the first position; zeros if None.
        final_states_out: (B, D, W-1), memory for the final states.
        activation: None, "silu" or "swish". Without one the convolution runs on plain torch.
        backend: a name of `BACKENDS`; None for the default of the device or VLM_SCAN_BACKEND.

    Returns:
        y (B, D, T) in x's dtype, with fp32 sums; with `return_final_states` also the final states (B, D, W-1): the
        `initial_states` for the positions that follow.

    Raises:
        ValueError: a shape, dtype or activation that doesn't fit; the message names the argument.
        BackendError: the backend is unknown, not installed, or not for this device.
    """
    _check_activation(activation, backend)
    _check_shapes(x, weight, bias, seq_idx, initial_states, final_states_out)
    if final_states_out is not None and not return_final_states:
        raise ValueError("final_states_out needs return_final_states=True")
    x, boundaries = _boundaries(x, seq_idx)
    rows, state = x.mT, None if initial_states is None else initial_states.mT
    inputs = (rows.unsqueeze(2), weight.unsqueeze(0), None if bias is None else bias.unsqueeze(0), state)
    y = _linear(*inputs, boundaries) if activation is None else ops.conv(*inputs, boundaries, use=backend)
    if not return_final_states:
        return y[0].mT
    final = after(rows, state, boundaries, weight.shape[1] - 1).mT
    return y[0].mT, final if final_states_out is None else final_states_out.copy_(final)


def _check_activation(activation: str | None, backend: str | None) -> None:
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation is {activation!r}; possible: None, 'silu', 'swish'")
    if activation is None and backend not in (None, "torch"):
        raise ValueError(f"backend {backend!r} has no convolution without activation; leave it out")


def _boundaries(x: Tensor, seq_idx: Tensor | None) -> tuple[Tensor, SegmentBoundaries | None]:
    """x with zeros at padding, which windows that reach over padding read, and the boundaries of `seq_idx`."""
    if seq_idx is None:
        return x, None
    live = seq_idx >= 0
    return torch.where(live.unsqueeze(1), x, 0), boundaries_of(torch.where(live, seq_idx, PADDING))


def _check_shapes(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial: Tensor | None,
    final: Tensor | None,
) -> None:
    """Raises `ValueError` with the names of `causal_conv1d`'s arguments."""
    if x.ndim != 3 or weight.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(
            f"x is {tuple(x.shape)}, weight {tuple(weight.shape)}; expected (B, D, T) and (D, W)"
        )
    (batch, width, length), taps = x.shape, weight.shape[1]
    if length == 0 or taps == 0:
        raise ValueError(
            f"causal_conv1d needs at least one position and one tap, got T = {length}, W = {taps}"
        )
    expected = {
        "bias": (bias, (width,)),
        "seq_idx": (seq_idx, (batch, length)),
        "initial_states": (initial, (batch, width, taps - 1)),
        "final_states_out": (final, (batch, width, taps - 1)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")
    if seq_idx is not None and (seq_idx.is_floating_point() or seq_idx.dtype == torch.bool):
        raise ValueError(f"seq_idx is {seq_idx.dtype}, expected integers")


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, boundaries: SegmentBoundaries | None
) -> Tensor:
    """As `ops.conv`, without its SiLU."""
    with without_autocast(x):
        marks = boundaries or (None, None, None)
        y = conv_sum(ConvInputs(x.float(), weight.transpose(1, 2), bias, state, *marks))
    if boundaries is not None:
        y = y * (boundaries.reset != PAD).unsqueeze(-1)
    return y.to(x.dtype)
