"""`vlm-train plan`: what each of N processes would hold, counted on the model as it would be laid on them.

Nothing is computed and no memory taken: parameters are on the meta device, and the other processes are pretended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from vlm_core.diagnose.costs.estimate import Assumptions, StageEstimate, estimate_costs
from vlm_core.diagnose.costs.gpus import smallest_gpu
from vlm_core.diagnose.costs.training_memory import Memory, largest_block
from vlm_core.diagnose.model_summary import build_on_meta
from vlm_core.errors import UserError
from vlm_core.model import PARTS, VLM
from vlm_core.spec.spec import Spec
from vlm_core.units import size
from vlm_train.checkpoint.dtensor import local
from vlm_train.config.train import TrainConfig
from vlm_train.distributed.fsdp2 import FSDP2Strategy
from vlm_train.engine.stage_state import StageState, cast_frozen_to_bf16
from vlm_train.engine.trainer import frozen_parts


@dataclass(frozen=True)
class Planned:
    """One stage on one of the processes; activations are those of samples of `max_length`."""

    name: str
    strategy: str
    share: int
    micro: int
    memory: Memory


@contextmanager
def pretended(world: int) -> Iterator[Any]:
    """A process group of which only this process exists; collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield SimpleNamespace(num_processes=world, process_index=0, device=torch.device("meta"))
    finally:
        dist.destroy_process_group()


def plan(spec: Spec, train: TrainConfig, world: int) -> list[Planned]:
    """Every stage as `world` processes would train it; raises `UserError` for what they could not."""
    if world == 1 and train.strategy not in ("auto", "ddp"):
        raise UserError(f"train.strategy: {train.strategy} needs several processes: --nproc N")
    advice = estimate_costs(spec, build_on_meta(spec), Assumptions(world))
    return [_stage(spec, train, number, told, world) for number, told in enumerate(advice.stages)]


def _stage(spec: Spec, train: TrainConfig, number: int, told: StageEstimate, world: int) -> Planned:
    stage, model = train.stages[number], build_on_meta(spec)
    sharded = train.strategy == "fsdp2"
    activations = told.at_longest["FSDP2" if sharded else "DDP"].activations
    stage_state, bf16 = StageState(model, stage, 0), train.precision == "bf16"
    extra = sum(told.costs[part].weight_copies for part in stage.trainable)
    if sharded:
        extra = 2 * max(largest_block(getattr(model, part)) for part in PARTS) * (2 if bf16 else 4)
    if bf16:
        cast_frozen_to_bf16(model, frozen_parts(train, number))
    if sharded:
        with pretended(world) as accelerator:
            stage_state.start(
                FSDP2Strategy(accelerator, bf16=bf16, reshard_after_forward=train.reshard_after_forward)
            )
    if sharded and not train.reshard_after_forward:
        extra = sum(p.numel() for p in model.parameters() if isinstance(p, DTensor)) * (2 if bf16 else 4)
    memory = _held(
        model, extra, activations, eight_bit=stage.optimizer != "adamw", copies=world > 1 and not sharded
    )
    return Planned(stage.name, "fsdp2" if sharded else "ddp", stage.batch_size // world, told.micro, memory)


def _held(model: VLM, extra: float, activations: float, *, eight_bit: bool, copies: bool) -> Memory:
    """What one process holds of a model that is laid out; with `copies` gradients stand in DDP's buckets, too."""
    own = [local(p) for p in model.parameters()]
    trained = [local(p) for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    moments = 2 * sum(p.numel() if eight_bit else p.nbytes for p in trained)
    return Memory(sum(p.nbytes for p in own) + extra, (1 + copies) * gradients, moments, activations)


def lines(planned: list[Planned], world: int) -> list[str]:
    """A line a stage, in GB."""
    titles = "stage strategy samples micro-batch weights gradients moments activations total fits"
    rows: list[Sequence[str]] = [titles.split()]
    for one in planned:
        m = one.memory
        sizes = [size(part) for part in (m.weights, m.gradients, m.optimizer, m.activations, m.total)]
        card = smallest_gpu(m.total)
        fits = card.name if card else "no GPU"
        rows.append([one.name, one.strategy, str(one.share), str(one.micro), *sizes, fits])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"each of {world} processes:",
        *("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows),
    ]
