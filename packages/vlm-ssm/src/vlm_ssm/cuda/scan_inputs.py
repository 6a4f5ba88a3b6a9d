"""The arguments that forward and backward scan share, and which cases their kernels cover."""

from __future__ import annotations

from typing import Any

from vlm_ssm.cuda.memory import GRID, KINDS, aligned, by_direction, by_matrix, by_row
from vlm_ssm.registration.inputs import ScanInputs

SLICE, TILE = 16, 32  # as in the sources: states of a backward's launch, and positions between saved states
MOST_STATES, LEAST_WIDTH = 64, 8
"""Of a channel, and channels of a group; other cases go to Triton's kernels."""


def why_not_covered(inputs: ScanInputs, train: bool) -> str | None:
    """Why these inputs go to Triton's kernels; None if they don't."""
    u, dt, A, B, C, z = inputs.u, inputs.dt, inputs.A, inputs.B, inputs.C, inputs.z
    (K, N, T, E), groups = u.shape, B.shape[3]
    if A.shape[2] > MOST_STATES:
        return f"a state size of {A.shape[2]}, more than {MOST_STATES}"
    if E // groups < LEAST_WIDTH:
        return f"{E // groups} channels a group, fewer than {LEAST_WIDTH}"
    if any(t.dtype != u.dtype for t in (dt, z) if t is not None) or C.dtype != B.dtype:
        return "rows of several types"
    if K * N > GRID:
        return f"{K * N} sequences, more than a grid has"
    columns = K if inputs.keep_directions else 1
    rows = [u.stride(2), dt.stride(2), 0 if z is None else z.stride(1), columns * E]
    if train and T * max(rows) * u.element_size() >= 2**32:
        return "a sequence of more than 4 GB"
    return None


def with_alignment(inputs: ScanInputs) -> ScanInputs:
    """Rows and matrices at addresses that vectors of 16 bytes can be read from."""
    u, dt, B, C = (aligned(t) for t in (inputs.u, inputs.dt, inputs.B, inputs.C))
    return inputs._replace(u=u, dt=dt, B=B, C=C, z=None if inputs.z is None else aligned(inputs.z))


def scan_options(inputs: ScanInputs, gated: bool) -> dict[str, int]:
    """Compile-time constants."""
    return {
        "STATES": inputs.A.shape[2],
        "ROW": KINDS[inputs.u.dtype],
        "MAT": KINDS[inputs.B.dtype],
        "GATED": gated,
        "SOFTPLUS": inputs.softplus,
        "RESET": inputs.reset is not None,
        "ORDERED": inputs.scan_order is not None,
    }


def scan_arguments(inputs: ScanInputs) -> dict[str, Any]:
    """Fields of `struct Arguments` that both passes have."""
    u, dt, A, B, C, D, bias, z, _, reset, scan_order, *_ = inputs
    (_, N, T, E), groups = u.shape, B.shape[3]
    sizes = {"N": N, "T": T, "E": E, "own": E // groups, "sets": len(A)}
    views = (
        by_direction("u", u) | by_direction("dt", dt) | by_row("z", z) | by_matrix("B", B) | by_matrix("C", C)
    )
    return views | sizes | {"A": A, "D": D, "bias": bias, "reset": reset, "order": scan_order}
