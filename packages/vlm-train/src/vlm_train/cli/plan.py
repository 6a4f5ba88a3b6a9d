"""`vlm-train plan`: the memory of each of N processes, counted on the model as the strategy would shard it.

Nothing is computed or allocated: parameters are on the meta device, and the process group is torch's fake one.
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
    """One stage on one process. Activations are for samples of `max_length`."""

    name: str
    strategy: str
    samples: int
    micro_batch_size: int
    memory: Memory


@contextmanager
def fake_process_group(world: int) -> Iterator[Any]:
    """A process group of `world` ranks without other processes; collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield SimpleNamespace(num_processes=world, process_index=0, device=torch.device("meta"))
    finally:
        dist.destroy_process_group()


def plan(spec: Spec, train: TrainConfig, world: int) -> list[Planned]:
    """Every stage as `world` processes would train it; raises `UserError` for a strategy that they can't use."""
    if world == 1 and train.strategy not in ("auto", "ddp"):
        raise UserError(f"train.strategy: {train.strategy} needs several processes: --nproc N")
    advice = estimate_costs(spec, build_on_meta(spec), Assumptions(world))
    return [_stage(spec, train, number, costs, world) for number, costs in enumerate(advice.stages)]


def _stage(spec: Spec, train: TrainConfig, number: int, advice: StageEstimate, world: int) -> Planned:
    stage, model = train.stages[number], build_on_meta(spec)
    sharded = train.strategy == "fsdp2"
    activations = advice.at_longest["FSDP2" if sharded else "DDP"].activations
    stage_state, bf16 = StageState(model, stage, 0), train.precision == "bf16"
    extra = sum(advice.costs[part].weight_copies for part in stage.trainable)
    if sharded:
        extra = 2 * max(largest_block(getattr(model, part)) for part in PARTS) * (2 if bf16 else 4)
    if bf16:
        cast_frozen_to_bf16(model, frozen_parts(train, number))
    if sharded:
        with fake_process_group(world) as accelerator:
            stage_state.start(
                FSDP2Strategy(accelerator, bf16=bf16, reshard_after_forward=train.reshard_after_forward)
            )
    if sharded and not train.reshard_after_forward:
        extra = sum(p.numel() for p in model.parameters() if isinstance(p, DTensor)) * (2 if bf16 else 4)
    memory = _memory(
        model, extra, activations, eight_bit=stage.optimizer != "adamw", buckets=world > 1 and not sharded
    )
    return Planned(stage.name, "fsdp2" if sharded else "ddp", stage.batch_size // world, advice.micro, memory)


def _memory(model: VLM, extra: float, activations: float, *, eight_bit: bool, buckets: bool) -> Memory:
    """Memory of one process for its shards; with `buckets`, DDP's gradient buckets hold a second copy of gradients."""
    params = [local(p) for p in model.parameters()]
    trained = [local(p) for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    moments = 2 * sum(p.numel() if eight_bit else p.nbytes for p in trained)
    return Memory(sum(p.nbytes for p in params) + extra, (1 + buckets) * gradients, moments, activations)


def lines(planned: list[Planned], world: int) -> list[str]:
    """A table with a line per stage, sizes in GB."""
    titles = "stage strategy samples micro-batch weights gradients moments activations total fits"
    rows: list[Sequence[str]] = [titles.split()]
    for stage in planned:
        m = stage.memory
        sizes = [size(part) for part in (m.weights, m.gradients, m.optimizer, m.activations, m.total)]
        card = smallest_gpu(m.total)
        fits = card.name if card else "no GPU"
        rows.append(
            [stage.name, stage.strategy, str(stage.samples), str(stage.micro_batch_size), *sizes, fits]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"each of {world} processes:",
        *("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows),
    ]
