"""The floor of a scan's arithmetic: its exponentials alone, in registers, without reading or writing memory.

Each position of each channel needs one exponential per state, forward, and the same again in the backward, which has to
recompute them. They run on the GPU's special function units, one instruction (`ex2.approx`) each.
"""

from __future__ import annotations

import torch
from perf.lib.gpu import DEVICE, replayed
from perf.lib.tables import Run

BLOCK = 1024  # elements of a program: 8 a thread, independent of one another
PROGRAMS = 8 * 132


def exponentials(elements: int, states: int = 16, passes: int = 1) -> Run:
    """`elements` (positions × channels) times `states` times `passes` exponentials."""
    if DEVICE.type == "cpu":
        x = torch.rand(states, max(1, elements // 8))
        return lambda: [torch.exp2(x) for _ in range(8 * passes)]
    from perf.lib.exponential_kernel import chain

    rounds = max(1, round(elements * passes / (BLOCK * PROGRAMS)))
    programs = -(-elements * passes // (BLOCK * rounds))
    out = torch.empty(BLOCK, device=DEVICE)
    return replayed(lambda: chain[(programs,)](out, rounds, BLOCK=BLOCK, STATES=states, num_warps=4))
