"""The kernel of `exponentials.py`; it needs Triton."""

from __future__ import annotations

import triton.language as tl

from vlm_ssm.triton.kernels.maths import jit


@jit
def chain(out, rounds, BLOCK: tl.constexpr, STATES: tl.constexpr):
    """Repeats x = 2^-x, which stays between 0 and 1. What it would store only keeps the compiler from dropping it."""
    lane = tl.arange(0, BLOCK)
    x = lane.to(tl.float32) / BLOCK
    for _ in range(rounds):
        for _ in tl.static_range(STATES):  # pyright: ignore[reportGeneralTypeIssues]
            x = tl.inline_asm_elementwise(
                "{ .reg .f32 t; neg.f32 t, $1; ex2.approx.ftz.f32 $0, t; }",
                "=f,f",
                [x],
                dtype=tl.float32,
                is_pure=True,
                pack=1,
            )
    tl.store(out + lane, x, mask=x > 2.0)  # pyright: ignore[reportOperatorIssue]
