"""Functions of fp32 vectors that kernels share; none overflows, NaN passes through.

`exp2` is one instruction where `exp` is five.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

jit: Any = triton.jit
"""What is written in Triton's language is no Python to a type checker."""

LOG2E = tl.constexpr(1.4426950408889634)


@jit
def sigmoid(x):
    w = tl.exp2(-tl.abs(x) * LOG2E)
    return tl.where(x >= 0, 1.0, w) / (1.0 + w)


@jit
def silu_slope(x):
    s = sigmoid(x)
    return s + x * s * (1.0 - s)


@jit
def softplus(x):
    """max(x, 0) + log(1 + w), w = e^-|x|; the logarithm as 2 artanh(w / (2 + w)), which is precise for any w."""
    w = tl.exp2(-tl.abs(x) * LOG2E)
    v = w / (2.0 + w)
    q = v * v
    series = 1.0 / 15 + q * (1.0 / 17)
    series = 1.0 / 13 + q * series
    series = 1.0 / 11 + q * series
    series = 1.0 / 9 + q * series
    series = 1.0 / 7 + q * series
    series = 1.0 / 5 + q * series
    series = 1.0 / 3 + q * series
    return tl.maximum(x, 0.0) + 2.0 * v * (1.0 + q * series)
