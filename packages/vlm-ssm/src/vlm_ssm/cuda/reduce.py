"""Sums over what blocks of a backward wrote, in one order."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, kernel
from vlm_ssm.cuda.memory import KINDS

_TOTALS = ("first", "second", "third")


def sum_slices(
    sums: Tensor,
    slices: int,
    totals: tuple[Tensor, ...],
    matrices: Tensor | None = None,
    grad_B: Tensor | None = None,
    grad_C: Tensor | None = None,
) -> None:
    """Sum `sums` (slices, …) over P equal runs of slices into `totals`, up to three tensors (P, …) side by side there.

    In the same launch, sum `matrices` (blocks, …, 32) into the gradients of B and C (…, 16).
    """
    totals_ = (*totals, None, None)[:3]
    elements = tuple(0 if t is None else t.numel() // len(totals[0]) for t in totals_)
    rows, blocks = (0, 0) if matrices is None else (matrices[0].numel() // 32, len(matrices))
    kind = 0 if grad_B is None else KINDS[grad_B.dtype]
    launch = _launch(kind, elements, len(totals[0]), slices, rows, blocks, sums.get_device())
    launch(matrices, grad_B, grad_C, sums, *totals_)


@lru_cache(PLANS)
def _launch(
    kind: int, elements: tuple[int, ...], sets: int, slices: int, rows: int, blocks: int, device: int
) -> Launch:
    """`elements`: of a set, of each of the totals."""
    lengths = {f"{name}_length": n // 4 for name, n in zip(_TOTALS, elements, strict=True)}
    grid = -(-rows // 8)
    integers = lengths | {"rows": rows, "matrix_grid": grid, "sets": sets, "slices": slices // sets}
    run = kernel("reduce.cu", "reduce", ROW=kind)
    tensors = ("matrices", "grad_B", "grad_C", "sums", *_TOTALS)
    size = (grid + -(-sets * sum(lengths.values()) // 256), 1, 1)
    return run.prepare(size, 256, 0, device, tensors, blocks=blocks, **integers)
