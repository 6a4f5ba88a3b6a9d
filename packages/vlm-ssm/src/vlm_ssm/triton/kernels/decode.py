"""One position of each sequence: window and recurrence moved on. The state after may be written over the one before."""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import jit, sigmoid, softplus


@jit
def convolve(x, weight, bias, state, after, y, x_n, E, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """x (B, E), weight (E, W), bias (E), state (B, W - 1, E) -> y (B, E), after SiLU, and the state after it."""
    n = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = e < E
    new = tl.load(x + n * x_n + e, mask=here, other=0.0)
    total = new.to(tl.float32) * tl.load(weight + e * TAPS + TAPS - 1, mask=here, other=0.0).to(tl.float32)
    if bias is not None:
        total += tl.load(bias + e, mask=here, other=0.0).to(tl.float32)
    at = n * (TAPS - 1) * E + e
    for j in tl.static_range(TAPS - 1):
        old = tl.load(state + at + j * E, mask=here, other=0.0)
        total += old.to(tl.float32) * tl.load(weight + e * TAPS + j, mask=here, other=0.0).to(tl.float32)
        if j > 0:
            tl.store(after + at + (j - 1) * E, old, mask=here)
    if TAPS > 1:
        tl.store(after + at + (TAPS - 2) * E, new, mask=here)
    tl.store(y + n * E + e, (total * sigmoid(total)).to(y.dtype.element_ty), mask=here)


@jit
def recur(
    u, dt, A_log, low, D, bias, z, state, after, y, low_n, z_n, first, E, S,
    STATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """u, dt (B, E) dense; low (B, …) holds B and C from column `first` on; state (B, E, S) fp32 -> gated y (B, E)."""
    n = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    s = tl.arange(0, STATES)
    here = e < E
    both = here[:, None] & (s < S)[None, :]
    x = tl.load(u + n * E + e, mask=here, other=0.0).to(tl.float32)
    step = tl.load(dt + n * E + e, mask=here, other=0.0).to(tl.float32)
    step = softplus(step + tl.load(bias + e, mask=here, other=0.0).to(tl.float32))
    A = -tl.exp(tl.load(A_log + e[:, None] * S + s[None, :], mask=both, other=0.0).to(tl.float32))
    row = low + n * low_n + first
    b = tl.load(row + s, mask=s < S, other=0.0).to(tl.float32)
    c = tl.load(row + S + s, mask=s < S, other=0.0).to(tl.float32)
    at = (n * E + e[:, None]) * S + s[None, :]
    h = tl.load(state + at, mask=both, other=0.0)
    h = tl.exp(step[:, None] * A) * h + (step * x)[:, None] * b[None, :]
    tl.store(after + at, h, mask=both)
    out = tl.sum(h * c[None, :], axis=1) + x * tl.load(D + e, mask=here, other=0.0).to(tl.float32)
    gate = tl.load(z + n * z_n + e, mask=here, other=0.0).to(tl.float32)
    tl.store(y + n * E + e, (out * gate * sigmoid(gate)).to(y.dtype.element_ty), mask=here)
