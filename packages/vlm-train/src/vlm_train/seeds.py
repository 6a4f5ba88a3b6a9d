"""Seeds of a run: every generator's seed follows from `train.seed` and from what it draws for.

Nothing else enters, so resuming needs no generator's state. A run must resume exactly under a later version of this
package, so no formula here may change; whatever needs a new seed takes `fold_in`.
"""

from __future__ import annotations

import hashlib


def fold_in(seed: int, *names: int | str) -> int:
    """A seed of 56 bits for what `names` say, unrelated to those of other names or of another `seed`."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def stage_seed(seed: int, number: int) -> int:
    """Of stage `number`: its row order, dropout and adapters."""
    return seed * 1000 + number


def epoch_seed(seed: int, epoch: int) -> int:
    """Of the permutation of an epoch; `seed` is the stage's."""
    return (seed << 20) + epoch


def step_seed(seed: int, step: int, rank: int, world: int) -> int:
    """Of dropout in step `step` (from 0) on process `rank` of `world`; `seed` is the stage's."""
    return seed * 1_000_003 + step * world + rank
