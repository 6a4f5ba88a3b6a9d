"""Rank and world size from the environment variables that launchers such as torchrun set."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable

_SET_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_NUMBER = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Place:
    """Rank of a process among all `world` processes, and among the `local_world` of its node."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def place() -> Place | None:
    """The process's place, None without a launcher; raises `UserError` for missing or inconsistent variables."""
    present = [name for name in _SET_BY_LAUNCHERS if os.environ.get(name)]
    if not {"RANK", "LOCAL_RANK"} & set(present) and (os.environ.get("WORLD_SIZE") or "1") == "1":
        return None
    if missing := sorted(set(_SET_BY_LAUNCHERS) - set(present)):
        raise UserError(
            f"the environment sets {', '.join(present)}, as launchers do, but not {', '.join(missing)}; "
            "start through torchrun, or unset them"
        )
    values = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    values.append(os.environ.get("LOCAL_WORLD_SIZE", values[1]))
    numbers = [*values, os.environ["MASTER_PORT"]]
    if not all(_NUMBER.fullmatch(value) for value in numbers):
        names = "RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_PORT"
        raise UserError(f"{names}: expected numbers, got {printable(', '.join(numbers), 200)}")
    process = Place(*map(int, values))
    if process.rank >= process.world or process.local_rank >= process.local_world:
        raise UserError(
            f"RANK {process.rank} of WORLD_SIZE {process.world}, LOCAL_RANK {process.local_rank} of LOCAL_WORLD_SIZE "
            f"{process.local_world}: expected a rank below the number of processes"
        )
    return process
