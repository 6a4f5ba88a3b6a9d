"""Free memory of this machine for one of its training processes."""

from __future__ import annotations

import psutil

from vlm_core.runtime.rank_env import place
from vlm_core.runtime.system_faults import memory_ceiling


def free_ram() -> int:
    """Bytes of this machine's memory that one of its processes may take: an equal share of what is free."""
    free = psutil.virtual_memory().available
    if (ceiling := memory_ceiling()) is not None:
        free = min(free, max(0, ceiling - psutil.Process().memory_info().rss))
    here = place()
    return free // (here.local_world if here else 1)
