"""The arguments that forward and backward scan share, and which cases their kernels cover."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vlm_ssm.cuda.memory import GRID, KINDS, Layout, aligned, by_direction, by_matrix, by_row, layout
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
    given = (inputs.u, inputs.dt, inputs.B, inputs.C, inputs.z)
    u, dt, B, C, z = ready = tuple(None if t is None else aligned(t) for t in given)
    if all(new is old for new, old in zip(ready, given, strict=True)):
        return inputs
    return inputs._replace(u=u, dt=dt, B=B, C=C, z=z)


class ScanLayout(NamedTuple):
    """What the launches of a scan depend on; `sets`: of parameters."""

    u: Layout
    dt: Layout
    z: Layout | None
    B: Layout
    C: Layout
    sets: int
    softplus: bool
    reset: bool
    ordered: bool
    device: int

    @property
    def states(self) -> int:
        return self.B.shape[4]


TENSORS = ("u", "dt", "z", "B", "C", "A", "D", "bias", "reset", "order")
"""The tensors that both passes read, in the order of `scan_tensors`."""


def scan_tensors(inputs: ScanInputs) -> tuple[Tensor | None, ...]:
    u, dt, A, B, C, D, bias, z, _, reset, scan_order, *_ = inputs
    return u, dt, z, B, C, A, D, bias, reset, scan_order


def scan_layout(inputs: ScanInputs) -> ScanLayout:
    u, dt, A, B, C, _, _, z, _, reset, scan_order, softplus, _ = inputs
    views = layout(u), layout(dt), None if z is None else layout(z), layout(B), layout(C)
    return ScanLayout(*views, A.shape[0], softplus, reset is not None, scan_order is not None, u.get_device())


def scan_options(given: ScanLayout, gated: bool) -> dict[str, int]:
    """Compile-time constants."""
    return {
        "STATES": given.states,
        "ROW": KINDS[given.u.dtype],
        "MAT": KINDS[given.B.dtype],
        "GATED": gated,
        "SOFTPLUS": given.softplus,
        "RESET": given.reset,
        "ORDERED": given.ordered,
    }


def scan_integers(given: ScanLayout) -> dict[str, int]:
    """Fields of `struct Arguments` that both passes have, but for addresses."""
    u, dt, z, B, C, sets, *_ = given
    (_, N, T, E), groups = u.shape, B.shape[3]
    sizes = {"N": N, "T": T, "E": E, "own": E // groups, "sets": sets}
    rows = by_direction("u", u) | by_direction("dt", dt) | by_row("z", z)
    return rows | by_matrix("B", B) | by_matrix("C", C) | sizes
