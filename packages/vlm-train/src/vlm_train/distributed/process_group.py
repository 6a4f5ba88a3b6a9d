"""The processes of a run: rank of this one, calls on the main process alone, one exit code for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable
from vlm_core.runtime.rank_env import Place as Place
from vlm_core.runtime.rank_env import place as place
from vlm_core.runtime.system_faults import system_fault
from vlm_train.distributed.exit_message import RESUMABLE, final_code, record_code, report
from vlm_train.distributed.preemption import Stopped

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def store(seconds: float = 300) -> Any:
    """A connection of its own to the group's key-value store, with a timeout; None for a single process.

    The group's connection serves one thread at a time. Keys are of one attempt: a restarted group finds no old ones.
    """
    import torch.distributed as dist
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    from datetime import timedelta

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    connection = TCPStore(address, port, wait_for_workers=False, timeout=timedelta(seconds=seconds))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"vlm-train/{attempt}", connection)


def call_on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Call `action` on the main process alone; returns its result, or raises its `UserError`, on every process."""
    outcome: list[Any] = [None, None]  # result, lines of the error
    if accelerator.is_main_process:
        try:
            outcome = [action(), None]
        except UserError as error:
            outcome = [None, error.lines]
            if accelerator.num_processes == 1:
                raise
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(*outcome[1])
    return outcome[0]


def exit_code_of(command: Callable[[], int], debug: bool) -> int:
    """Run `command` as one process of a group; an error is reported by the first process that meets one.

    Another process fails because its peers have ended, and reports nothing. `debug` raises the error.
    """
    if (code := final_code()) is not None:
        return code
    try:
        return command()
    except Stopped as end:
        return report(end.text, RESUMABLE)
    except Exception as error:
        text, code = _message(error)
        if debug:
            record_code(code)
            raise
        return report(text, code)


def _message(error: Exception) -> tuple[str, int]:
    """Message and exit code for an error."""
    here = place()
    rank = f"rank {here.rank if here else 0}"
    if isinstance(error, UserError):
        return str(error), 2
    if fault := system_fault(error):
        return f"{rank}: {printable(fault, lines=True)}", fault.code
    lines = str(error).strip().splitlines()
    text = f"{rank}: {type(error).__name__}: {printable(lines[0]) if lines else ''}"
    return (
        f"{text}\nif another process ended first, that is the cause; --debug shows where this one failed",
        70,
    )
