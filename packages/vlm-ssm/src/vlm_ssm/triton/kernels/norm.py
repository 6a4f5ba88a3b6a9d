"""Residual addition and RMSNorm: a program takes whole rows."""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import jit


@jit
def forward(residual, out, weight, summed, y, scale, M, eps, BLOCK: tl.constexpr):
    """summed = residual + out (rows of M); y = summed · scale · weight, scale = (mean square + eps)^-½ a row."""
    row = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, BLOCK)
    v = tl.load(residual + row * M + m, mask=m < M, other=0.0)
    if out is not None:
        v += tl.load(out + row * M + m, mask=m < M, other=0.0).to(tl.float32)
        tl.store(summed + row * M + m, v, mask=m < M)
    factor = 1.0 / tl.sqrt(tl.sum(v * v) / M + eps)
    w = tl.load(weight + m, mask=m < M, other=0.0).to(tl.float32)
    tl.store(y + row * M + m, (v * factor * w).to(y.dtype.element_ty), mask=m < M)
    if scale is not None:
        tl.store(scale + row, factor)


@jit
def backward(grad_y, grad_summed, summed, weight, scale, grad, sums, rows, M, each, BLOCK: tl.constexpr):
    """`each` rows a program: gradient of the sum to `grad`, this program's part of the weight's to `sums`."""
    m = tl.arange(0, BLOCK)
    w = tl.load(weight + m, mask=m < M, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    first = tl.program_id(0).to(tl.int64) * each
    for row in range(first, tl.minimum(first + each, rows)):
        g = tl.load(grad_y + row * M + m, mask=m < M, other=0.0).to(tl.float32)
        factor = tl.load(scale + row)
        normal = tl.load(summed + row * M + m, mask=m < M, other=0.0) * factor
        total += g * normal
        g *= w
        back = (g - normal * (tl.sum(g * normal) / M)) * factor
        if grad_summed is not None:
            back += tl.load(grad_summed + row * M + m, mask=m < M, other=0.0)
        tl.store(grad + row * M + m, back, mask=m < M)
    tl.store(sums + tl.program_id(0).to(tl.int64) * M + m, total, mask=m < M)
