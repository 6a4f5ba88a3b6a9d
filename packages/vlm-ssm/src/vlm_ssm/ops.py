"""The three operations of a Mamba layer, channels last, on the chosen backend.

There are K scan directions over B sequences of T rows; direction k visits the rows in the order `scan_order[k]`. J is 1
if all directions read the same rows and their outputs are summed, K if each has its own rows. P is 1 if directions
share parameters, else K. Without `scan_order` K = J. All functions raise `ValueError` for a shape that doesn't fit and
`BackendError` for a backend (`use`) that can't run.
"""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.backends import backend
from vlm_ssm.registration.inputs import ConvInputs, ScanInputs
from vlm_ssm.registration.torch_modes import without_autocast
from vlm_ssm.segments import SegmentBoundaries


def _expect(**shapes: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Raises `ValueError` for other shapes: kernels read memory by address."""
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")


def _parameter_sets(count: int, directions: int) -> None:
    if count not in (1, directions):
        raise ValueError(
            f"{count} sets of parameters for {directions} directions; expected 1 or {directions}"
        )


def _as_index(scan_order: Tensor | None) -> Tensor | None:
    """Kernels read contiguous int64."""
    return None if scan_order is None else scan_order.long().contiguous()


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    boundaries: SegmentBoundaries | None = None,
    scan_order: Tensor | None = None,
    *,
    use: str | None = None,
) -> Tensor:
    """SiLU(bias + Σ_j weight_j · x_{t-W+1+j}) per channel, rows taken in each scan order.

    x (B, T, J, E); weight (P, E, W), bias (P, E); `state` (B, W-1, E): the inputs before the first position that is no
    padding, zeros if None. With `boundaries` a window stays in its segment, and outputs at padding are 0.
    -> (K, B, T, E) in x's dtype.
    """
    (batch, length, columns, width), (sets, _, taps) = x.shape, weight.shape
    directions = columns if scan_order is None else len(scan_order)
    _parameter_sets(sets, directions)
    _parameter_sets(columns, directions)
    _expect(
        weight=(weight, (sets, width, taps)),
        bias=(bias, (sets, width)),
        state=(state, (batch, taps - 1, width)),
        scan_order=(scan_order, (directions, length)),
    )
    if boundaries is not None:
        _expect(segments=(boundaries.reset, (batch, length)))
    with without_autocast(x):
        marks = boundaries or (None, None, None)
        inputs = ConvInputs(x, weight.transpose(1, 2), bias, state, *marks, _as_index(scan_order))
        return backend(x.device, use).conv(inputs)


def scan(inputs: ScanInputs, *, use: str | None = None) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t;  y_t = (C_t·h_t + D u_t) · SiLU(z)   (paper Eq. 3 and 4).

    u, dt (K, B, T, E); A (P, E, S); B, C (K, B, T, G, S); D, bias (P, E), Δ = softplus(dt + bias); gate z
    (B, T, J, E); h0 (K, B, E, S); `reset` (B, T) as in `SegmentBoundaries`. Position t of direction k is row
    `scan_order[k, t]`; y is summed over directions, unless `keep_directions` (then J = K).
    -> y (B, T, J, E) in u's dtype, fp32 state (K, B, E, S).
    """
    u, dt, A, B, C, D, bias, z, h0, reset, scan_order, _, keep_directions = inputs
    (directions, batch, length, width), (sets, _, states), groups = u.shape, A.shape, B.shape[3]
    _parameter_sets(sets, directions)
    if width % groups:
        raise ValueError(f"{groups} groups of B and C don't divide a width of {width}")
    matrices = (directions, batch, length, groups, states)
    _expect(
        delta=(dt, tuple(u.shape)),
        A=(A, (sets, width, states)),
        B=(B, matrices),
        C=(C, matrices),
        D=(D, (sets, width)),
        delta_bias=(bias, (sets, width)),
        z=(z, (batch, length, directions if keep_directions else 1, width)),
        initial_state=(h0, (directions, batch, width, states)),
        segments=(reset, (batch, length)),
        scan_order=(scan_order, (directions, length)),
    )
    D, bias, h0 = (None if t is None else t.float() for t in (D, bias, h0))
    inputs = inputs._replace(A=A.float(), D=D, bias=bias, h0=h0, scan_order=_as_index(scan_order))
    with without_autocast(u):
        return backend(u.device, use).scan(inputs)


def add_rms_norm(
    residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, *, use: str | None = None
) -> tuple[Tensor, Tensor]:
    """residual (…, M), out like it or None, weight (M) -> residual + out in fp32, its RMSNorm in the weight's dtype."""
    _expect(out=(out, tuple(residual.shape)), weight=(weight, (residual.shape[-1],)))
    with without_autocast(residual):
        return backend(residual.device, use).add_rms_norm(residual, out, weight, eps)
