"""`micro_batch_sizes.json` of a run folder: the numbers that `micro_batch_size: auto` has chosen, by stage.

A resumed run reads them, so that its sums round as before. They hold for the inputs of the run that chose them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, PositiveInt, TypeAdapter, ValidationError

from vlm_core.errors import UserError
from vlm_core.io.checksum import verified, with_checksum
from vlm_train.checkpoint.run_dir import INPUTS, MICRO_BATCH_SIZES, RunDir
from vlm_train.checkpoint.run_inputs import Inputs


@dataclass(frozen=True)
class MicroBatchSize:
    """The size chosen for a stage, and what it was chosen for: number of processes, strategy, recomputation, device."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")
    micro_batch_size: PositiveInt
    processes: PositiveInt
    strategy: str
    activation_checkpointing: bool
    device: str

    def same_step(self, other: MicroBatchSize) -> bool:
        """Whether a step of both sums in the same order if their sizes are equal."""
        return (self.processes, self.strategy, self.activation_checkpointing) == (
            other.processes,
            other.strategy,
            other.activation_checkpointing,
        )


_ADAPTER = TypeAdapter(dict[str, MicroBatchSize])


def read(run: RunDir) -> dict[str, MicroBatchSize]:
    """The sizes by name of the stage; empty for a new run, and, with a warning, if the file is damaged or another's."""
    try:
        if (text := run.text(MICRO_BATCH_SIZES)) is None:
            return {}
        record = verified(text, run.path / MICRO_BATCH_SIZES)
        if record.get("run") != _identity(run):
            raise UserError(f"{run.path / MICRO_BATCH_SIZES}: of another run, whose spec or data differ")
        return _ADAPTER.validate_json(json.dumps(record.get("stages")))
    except ValidationError:
        run.warn(f"{run.path / MICRO_BATCH_SIZES}: damaged; micro_batch_size: auto measures again")
    except UserError as error:
        run.warn(f"{error}; micro_batch_size: auto measures again")
    return {}


def _identity(run: RunDir) -> str:
    """The digest of what decides the trained weights, batch size and longest sample included."""
    return Inputs.read(run.path / INPUTS).run


def write(run: RunDir, stage: str, chosen: MicroBatchSize) -> None:
    """Record the size of a stage beside those of the others."""
    sizes = {**read(run), stage: chosen}
    record = with_checksum(
        {"run": _identity(run), "stages": {name: asdict(each) for name, each in sizes.items()}}
    )
    run.write(MICRO_BATCH_SIZES, json.dumps(record, indent=1) + "\n")


def with_sizes(train: Mapping[str, Any], run: RunDir) -> dict[str, Any]:
    """A `train` section with the recorded number in place of each `micro_batch_size: auto`."""
    sizes = read(run)
    stages = [
        {**stage, "micro_batch_size": sizes[stage["name"]].micro_batch_size}
        if stage.get("micro_batch_size") == "auto" and stage["name"] in sizes
        else stage
        for stage in train["stages"]
    ]
    return {**train, "stages": stages}
