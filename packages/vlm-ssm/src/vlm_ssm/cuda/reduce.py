"""Sums over what blocks of a backward wrote, in one order."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.cuda.launch import kernel
from vlm_ssm.cuda.memory import KINDS


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
    sets = len(totals[0])
    named = dict(zip(("first", "second", "third"), (*totals, None, None), strict=False))
    lengths = {f"{name}_length": 0 if t is None else t.numel() // sets // 4 for name, t in named.items()}
    rows = 0 if matrices is None else matrices[0].numel() // 32
    grid = -(-rows // 8)
    run = kernel("reduce.cu", "reduce", ROW=0 if grad_B is None else KINDS[grad_B.dtype])
    sizes = {"rows": rows, "matrix_grid": grid, "sets": sets, "slices": slices // sets}
    sizes["blocks"] = 0 if matrices is None else len(matrices)
    blocks = grid + -(-sets * sum(lengths.values()) // 256)
    given = {"matrices": matrices, "grad_B": grad_B, "grad_C": grad_C, "sums": sums}
    run((blocks, 1, 1), 256, 0, sums.device.index, **given, **named, **lengths, **sizes)
