"""Sums over what blocks of a backward wrote, in one order."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.cuda.launch import kernel
from vlm_ssm.cuda.memory import KINDS
from vlm_ssm.cuda.scan_inputs import SLICE


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
    sets = len(totals[0])
    named = dict(zip(("first", "second", "third"), (*totals, None, None), strict=False))
    lengths = {f"{name}_length": 0 if t is None else t.numel() // sets // 4 for name, t in named.items()}
    states = 0 if grad_B is None else grad_B.shape[-1]
    if states:
        lengths["first_length"] = totals[0].shape[1] * SLICE // 4
    rows = 0 if matrices is None else matrices[0].numel() // 32
    grid = -(-rows // 8)
    run = kernel("reduce.cu", "reduce", ROW=0 if grad_B is None else KINDS[grad_B.dtype])
    sizes = {"rows": rows, "matrix_grid": grid, "sets": sets, "slices": slices // sets}
    sizes |= {"states": states, "slice": piece}
    sizes["blocks"] = 0 if matrices is None else len(matrices)
    blocks = grid + -(-sets * sum(lengths.values()) // 256)
    given = {"matrices": matrices, "grad_B": grad_B, "grad_C": grad_C, "sums": sums}
    run((blocks, 1, 1), 256, 0, sums.device.index, **given, **named, **lengths, **sizes)
