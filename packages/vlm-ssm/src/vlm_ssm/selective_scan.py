"""The selective scan with the names and layouts of `mamba_ssm.selective_scan_fn`."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm import ops
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.segments import boundaries_of


def _by_time(m: Tensor, batch: int, length: int, groups: int | None) -> Tensor:
    """B or C as (E, S), (B, S, T) or (B, G, S, T) -> (1, B, T, G, S), repeated to `groups` groups if given."""
    if m.ndim == 2:
        return m.expand(1, batch, length, *m.shape)
    timed = (m.unsqueeze(1) if m.ndim == 3 else m).permute(0, 3, 1, 2).unsqueeze(0)
    return timed if groups is None else timed.repeat_interleave(groups // timed.shape[3], dim=3)


def _channels_last(inputs: ScanInputs) -> ScanInputs:
    """From the layouts of `selective_scan`, with its `segments` as `reset`, to those of `ops.scan`."""
    u, dt, A, B, C, D, bias, z, h0, segments, *_ = inputs
    batch, width, length = u.shape
    if length == 0:
        raise ValueError("selective_scan needs at least one position, got T = 0")
    # a matrix that does not depend on time has one group a channel; the other one is expanded to as many
    groups = width if 2 in (B.ndim, C.ndim) else None
    return inputs._replace(
        u=u.transpose(1, 2).unsqueeze(0),
        dt=dt.transpose(1, 2).unsqueeze(0),
        A=A.unsqueeze(0),
        B=_by_time(B, batch, length, groups),
        C=_by_time(C, batch, length, groups),
        D=None if D is None else D.unsqueeze(0),
        bias=None if bias is None else bias.unsqueeze(0),
        z=None if z is None else z.transpose(1, 2).unsqueeze(2),
        h0=None if h0 is None else h0.unsqueeze(0),
        reset=None if segments is None else boundaries_of(segments).reset,
    )


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    segments: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan; positional arguments, layouts and meaning of `mamba_ssm.selective_scan_fn`.

        h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t,   y_t = (C_t · h_t + D u_t) · SiLU(z_t)

    Args:
        u, delta: (B, E, T). Δ = delta + delta_bias, through softplus if `delta_softplus`.
        A: (E, S), negative for a stable recurrence.
        B, C: (E, S), (B, S, T), or (B, G, S, T) for G groups of E / G channels.
        D, delta_bias: (E).
        z: (B, E, T); None for no gate.
        initial_state: (B, E, S), the state before the first position; zeros if None.
        segments: (B, T) integers. The state is reset where the number changes. Positions with `PADDING` (-1) leave the
            state as it is; their y is undefined.
        backend: a name of `BACKENDS`; None for the default of the device or VLM_SCAN_BACKEND.

    Returns:
        y (B, E, T) in u's dtype, and with `return_last_state` also the last state (B, E, S) in fp32. Inputs of any
        floating dtype are computed in fp32. Every input has a gradient.

    Raises:
        ValueError: T = 0, or a shape that doesn't fit; the message names the argument.
        BackendError: the backend is unknown, not installed, or not for this device.
    """
    inputs = ScanInputs(u, delta, A, B, C, D, delta_bias, z, initial_state, segments, softplus=delta_softplus)
    y, last = ops.scan(_channels_last(inputs), use=backend)
    y = y.squeeze(2).transpose(1, 2)
    return (y, last.squeeze(0)) if return_last_state else y
