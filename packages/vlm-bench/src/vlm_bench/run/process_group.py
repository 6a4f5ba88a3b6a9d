"""The processes of a run: one, or as many as `accelerate launch` starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from vlm_core.errors import UserError
from vlm_core.runtime.env_vars import hide_from_accelerate, refuse_overrides
from vlm_core.runtime.rank_env import place

_TIMEOUT = timedelta(days=7)
"""Longest wait of a finished process for the others; torch's default of minutes would end the run."""


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, number of processes, and the device of this process."""

    rank: int
    count: int
    device: str
    wait: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None

    @property
    def main(self) -> bool:
        return self.rank == 0


def join_ranks(device: str | None) -> Ranks:
    """Join the process group of a launcher, if there is one. `device` None means a GPU if there is one.

    Raises `UserError` for an environment variable that would change the answers, and for incomplete launcher variables.
    """
    refuse_overrides()
    hide_from_accelerate()
    import torch

    from vlm_core.model_folder.assemble import default_device

    here = place()
    if here is None or here.world == 1:
        return Ranks(0, 1, device or default_device())
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {device}: with several processes, possible: cpu, cuda")
    try:
        from accelerate import PartialState
    except ImportError:
        raise UserError("several processes need accelerate: pip install 'vlm-bench[run]'") from None
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=_TIMEOUT)
    assert state.num_processes > 1, "without a common process group, each process would ask all questions"
    return Ranks(
        state.process_index,
        state.num_processes,
        str(state.device),
        state.wait_for_everyone,
        state.destroy_process_group,
    )
