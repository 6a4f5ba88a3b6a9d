"""Sums over what blocks of a backward wrote, in one order."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor

from vlm_ssm.cuda.launch import PLANS, Launch, kernel
from vlm_ssm.cuda.memory import KINDS
from vlm_ssm.cuda.scan_inputs import SLICE

_TOTALS = ("first", "second", "third")


def sum_slices(
    sums: Tensor,
    slices: int,
    totals: tuple[Tensor, ...],
    matrices: Tensor | None = None,
    grad_B: Tensor | None = None,
    grad_C: Tensor | None = None,
    piece: int = 0,
) -> None:
    """Sum `sums` (slices, …) over P equal runs of slices into `totals`, up to three tensors (P, …) side by side there.

    In the same launch, sum `matrices` (blocks, …, 32) into the gradients of B and C (…, S). They are of slice `piece`
    of 16 states, and so are the first of `sums`, whose total is (P, E, S).
    """
    totals_ = (*totals, None, None)[:3]
    elements = tuple(0 if t is None else t.numel() // len(totals[0]) for t in totals_)
    rows, blocks = (0, 0) if matrices is None else (matrices[0].numel() // 32, len(matrices))
    kind, states = (0, 0) if grad_B is None else (KINDS[grad_B.dtype], grad_B.shape[-1])
    if states:
        elements = (totals[0].shape[1] * SLICE, *elements[1:])
    given = (kind, elements, len(totals[0]), slices, rows, blocks, states, piece)
    launch = _launch(given, sums.get_device())
    launch(matrices, grad_B, grad_C, sums, *totals_)


@lru_cache(PLANS)
def _launch(given: tuple[Any, ...], device: int) -> Launch:
    """`given`: type of B, elements of a set of each of the totals, and integers of the arguments."""
    kind, elements, sets, slices, rows, blocks, states, piece = given
    lengths = {f"{name}_length": n // 4 for name, n in zip(_TOTALS, elements, strict=True)}
    grid = -(-rows // 8)
    integers = lengths | {"rows": rows, "matrix_grid": grid, "sets": sets, "slices": slices // sets}
    integers |= {"states": states, "slice": piece}
    run = kernel("reduce.cu", "reduce", ROW=kind)
    tensors = ("matrices", "grad_B", "grad_C", "sums", *_TOTALS)
    size = (grid + -(-sets * sum(lengths.values()) // 256), 1, 1)
    return run.prepare(size, 256, 0, device, tensors, blocks=blocks, **integers)
