"""Products of a bf16 weight matrix with a few vectors, which read the weights once at the memory's rate."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm_ssm.cuda.decoding.launches import launch_dependent
from vlm_ssm.cuda.launch import is_usable, kernel

BF16 = torch.bfloat16
MOST = 16
"""Vectors of a product: that many fit a block, and of more cuBLAS is faster."""
STORE, ADD, CONVOLVE = 0, 1, 2
"""What happens with a product: SINK in matvec.cu."""
_FIELDS = (
    "taps",
    "taps_bias",
    "past",
    "past_after",
    "y",
    "gate",
    "residual",
    "inner",
    "ahead",
    "ahead_bytes",
)


def slots(vectors: int, most: int = MOST) -> int:
    """The next power of two up to `most`: compiled kernels are shared by numbers of vectors."""
    return min(most, 1 << (vectors - 1).bit_length())


def readable(*tensors: Tensor) -> bool:
    """Whether kernels can read these as they are: bf16, dense, rows at multiples of 16 bytes."""
    return all(
        t.dtype == BF16 and t.is_contiguous() and t.data_ptr() % 16 == 0 and t.shape[-1] % 8 == 0
        for t in tensors
    )


def shape(rows: int, columns: int, vectors: int) -> dict[str, int]:
    """Constants of a product, as measured on an H200.

    Warps share the columns. Their number depends on the matrix alone: sums have one order for any number of vectors.
    """
    few = vectors <= 8
    warps = 16 if rows < 1024 else 4 if columns <= 2560 else 8
    tiles = 1 if few or rows < 4096 else 2
    steps = -(-columns // (32 * warps))
    rounds = -(-steps * tiles // 10)  # weights that a lane holds: 10 of 16 bytes
    registers = 80 if few and warps < 16 else 128
    constants = {"SLOTS": slots(vectors), "WARPS": warps, "TILES": tiles, "DEPTH": -(-steps // rounds)}
    return constants | {"REGISTERS": registers}


def product(x: Tensor, weight: Tensor, sink: int, window: int = 1, **values: Tensor | int | None) -> None:
    """x (B, columns) times weight (rows, columns); `values` are fields of `Arguments` in matvec.cu, others are 0.

    `window`: positions of the convolution's window.
    """
    rows, columns = weight.shape
    constants = shape(rows, columns, len(x)) | {"SINK": sink, "TAPS": window}
    run = kernel("matvec.cu", "matvec", **constants)
    arguments = dict.fromkeys(_FIELDS) | values
    arguments |= {"x": x, "weight": weight, "B": len(x), "rows": rows, "columns": columns}
    grid = -(-rows // (8 * constants["TILES"])), -(-len(x) // constants["SLOTS"])
    launch_dependent(run, grid, 32 * constants["WARPS"], x.device.index, **arguments)


def linear(x: Tensor, weight: Tensor) -> Tensor | None:
    """`F.linear` (…, columns) -> (…, rows) for up to `MOST` vectors; None where it isn't covered."""
    vectors = x.shape[:-1].numel()
    if not 0 < vectors <= MOST or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if not (readable(x, weight) and x.is_cuda and is_usable(x.device)):
        return None
    y = x.new_empty(*x.shape[:-1], len(weight))
    product(x.reshape(vectors, -1), weight, STORE, y=y)
    return y
