"""One of several processes of a run: its place, and how all of them speak with one voice."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable
from vlm_core.runtime.rank_env import Place as Place
from vlm_core.runtime.rank_env import place as place
from vlm_core.runtime.system_faults import system_fault
from vlm_train.distributed.exit_message import RESUMABLE, claim, say, settled
from vlm_train.distributed.preemption import Stopped

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def attempt() -> str:
    """How often the launcher has restarted this group: names in the store are of one attempt."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def store(seconds: float = 300) -> Any:
    """A connection of its own to the group's store, of names of this attempt; None for a process alone."""
    import torch.distributed as dist
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    from datetime import timedelta

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    plain = TCPStore(address, port, wait_for_workers=False, timeout=timedelta(seconds=seconds))
    return PrefixStore(f"vlm-train/{attempt()}", plain)


def first_does(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Only the first process does it, and all wait; its `UserError` is everybody's."""
    first_tells(accelerator, action)


def first_tells(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """What `action` returns on the first process, which alone calls it; its `UserError` is everybody's."""
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told = [action(), None]
        except UserError as error:
            told = [None, error.lines]
            if accelerator.num_processes == 1:
                raise
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(told)
    if told[1] is not None:
        raise UserError(*told[1])
    return told[0]


def as_one(part: Callable[[], int], debug: bool) -> int:
    """Run this process's part of a group; an error of several processes is printed once. `debug` raises errors.

    A process whose peers have gone fails for that alone, so what comes second is not told.
    """
    if (code := settled()) is not None:
        return code
    try:
        return part()
    except Stopped as end:
        return say(end.text, RESUMABLE)
    except Exception as error:
        text, code = _told(error)
        if debug:
            claim(code)
            raise
        return say(text, code)


def _told(error: Exception) -> tuple[str, int]:
    """Message and exit code for an error."""
    here = place()
    rank = f"rank {here.rank if here else 0}"
    if isinstance(error, UserError):
        return str(error), 2
    if fault := system_fault(error):
        return f"{rank}: {printable(fault, lines=True)}", fault.code
    lines = str(error).strip().splitlines()
    text = f"{rank}: {type(error).__name__}: {printable(lines[0]) if lines else ''}"
    return f"{text}\nif another process ended first, that is why; --debug shows where", 70
