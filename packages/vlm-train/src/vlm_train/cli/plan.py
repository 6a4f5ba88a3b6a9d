"""`vlm-train plan`: the memory of each of N processes, counted on the model as the strategy would shard it.

Nothing is computed or allocated: parameters are on the meta device, and the process group is torch's fake one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, product
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from vlm_core.diagnose.costs.estimate import Assumptions, StageEstimate, estimate_costs
from vlm_core.diagnose.costs.fit import Capacity, misfits
from vlm_core.diagnose.costs.gpus import GPU, GPUS, smallest_gpu
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
from vlm_train.profiling.fit_warnings import device_at_hand, fit_warnings, strategy_label


@dataclass(frozen=True)
class Planned:
    """One stage on one process. Activations are for samples of `max_length`.

    `gpu` names the types of GPU that it is planned for, None if the plan does not depend on them. `micro_batch_size` is
    None if `auto` finds that not even one sample fits; the memory is then that of one.
    """

    name: str
    strategy: str
    samples: int
    micro_batch_size: int | None
    memory: Memory
    gpu: str | None
    fits: str


@contextmanager
def fake_process_group(world: int) -> Iterator[Any]:
    """A process group of `world` ranks without other processes; collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield SimpleNamespace(num_processes=world, process_index=0, device=torch.device("meta"))
    finally:
        dist.destroy_process_group()


def plan(spec: Spec, train: TrainConfig, world: int, gpu: GPU | None = None) -> list[Planned]:
    """Every stage as `world` processes would train it; raises `UserError` for a strategy that they can't use.

    With `auto` for the strategy or a micro-batch: on `gpu`, or on each size of GPU memory.
    """
    if world == 1 and train.strategy not in ("auto", "ddp"):
        raise UserError(f"train.strategy: {train.strategy} needs several processes: --nproc N")
    estimate = estimate_costs(spec, build_on_meta(spec), Assumptions(world))
    depends = any(stage.facts.auto for stage in estimate.stages) or (
        world > 1 and train.cost_strategy() == "auto"
    )
    gpus = [gpu] if gpu else _by_memory() if depends else [None]
    memories: dict[tuple[int, str], Memory] = {}
    planned = []
    for number, each in product(range(len(train.stages)), gpus):
        strategy = estimate.strategy_on(each) if each else _fixed_strategy(train)
        if (key := (number, strategy)) not in memories:
            memories[key] = _one(spec, train, number, estimate.stages[number], strategy)
        planned.append(_planned(estimate.stages[number], memories[key], strategy, each))
    return list(_merged(planned))


def _merged(planned: Sequence[Planned]) -> Iterator[Planned]:
    """The same with one entry for adjacent types of GPU whose plans are equal."""
    for one, same in groupby(planned, lambda each: replace(each, gpu=None)):
        names = [each.gpu for each in same if each.gpu]
        yield replace(one, gpu=", ".join(names) or None)


def _by_memory() -> list[GPU]:
    """A type of GPU for each size of memory, the smallest first, named after all that have it."""
    by_memory: dict[float, list[GPU]] = {}
    for gpu in GPUS.values():
        by_memory.setdefault(gpu.memory, []).append(gpu)
    return [replace(same[0], name=", ".join(g.name for g in same)) for _, same in sorted(by_memory.items())]


def _fixed_strategy(train: TrainConfig) -> str:
    strategy = train.cost_strategy()
    return "DDP" if strategy == "auto" else strategy


def _planned(stage: StageEstimate, one: Memory, strategy: str, gpu: GPU | None) -> Planned:
    """The plan of a stage, `one` being the memory that the spec's micro-batch needs, or for `auto` one sample."""
    facts, share = stage.facts, stage.facts.batch_size // stage.gpus
    micro: int | None = stage.micro
    if facts.auto and gpu:
        fitting = [n for n in range(1, share + 1) if share % n == 0 and gpu.holds(one.of(n).total)]
        micro = max(fitting, default=None)
    memory = one.of(micro or 1) if facts.auto else one
    if gpu:
        fits = "yes" if gpu.holds(memory.total) else "NO"
    else:
        card = smallest_gpu(memory.total)
        fits = card.name if card else "no GPU"
    label = {"DDP": "ddp", "FSDP2": "fsdp2", "FSDP2-gathered": "fsdp2"}[strategy]
    return Planned(facts.name, label, share, micro, memory, gpu.name if gpu else None, fits)


def _one(spec: Spec, train: TrainConfig, number: int, advice: StageEstimate, strategy: str) -> Memory:
    """The memory of one process of a stage, counted on the model as the strategy shards it."""
    stage, model, world = train.stages[number], build_on_meta(spec), advice.gpus
    sharded = strategy != "DDP"
    activations = advice.at_longest[strategy].activations
    stage_state, bf16 = StageState(model, stage, 0), train.precision == "bf16"
    extra = advice.copies
    if sharded:
        extra = 2 * max(largest_block(getattr(model, part)) for part in PARTS) * (2 if bf16 else 4)
    if bf16:
        cast_frozen_to_bf16(model, frozen_parts(train, number))
    if sharded:
        with fake_process_group(world) as accelerator:
            stage_state.start(
                FSDP2Strategy(accelerator, bf16=bf16, reshard_after_forward=train.reshard_after_forward)
            )
    if strategy == "FSDP2-gathered":
        extra = sum(p.numel() for p in model.parameters() if isinstance(p, DTensor)) * (2 if bf16 else 4)
    states = _states(model, extra, eight_bit=stage.optimizer != "adamw", buckets=world > 1 and not sharded)
    accumulates = advice.at_longest[strategy].accumulates
    return replace(states, activations=activations, accumulates=accumulates)


def _states(model: VLM, extra: float, *, eight_bit: bool, buckets: bool) -> Memory:
    """States of one process for its shards; with `buckets`, DDP's gradient buckets hold a second copy of gradients."""
    params = [local(p) for p in model.parameters()]
    trained = [local(p) for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    moments = 2 * sum(p.numel() if eight_bit else p.nbytes for p in trained)
    weights = sum(p.nbytes for p in params) + extra
    return Memory(weights, (1 + buckets) * gradients, moments, 0.0, buckets * gradients)


def warnings(
    spec: Spec, train: TrainConfig, planned: Sequence[Planned], world: int, gpu: GPU | None
) -> list[str]:
    """Which stages do not fit into `gpu`, or else the device at hand."""
    model, sharded = build_on_meta(spec), any(stage.strategy == "fsdp2" for stage in planned)
    if gpu is None:
        found = fit_warnings(spec, train, model, world, device_at_hand(), sharded=sharded)
    else:
        estimate = estimate_costs(spec, model, Assumptions(world), memory_only=True)
        found = misfits(estimate, strategy_label(train, sharded=sharded), Capacity.of(gpu))
    return [f"warning: {line}" for line in found]


def lines(planned: list[Planned], world: int) -> list[str]:
    """A table with a line per stage, or per stage and size of GPU memory; sizes in GB."""
    by_gpu = any(stage.gpu for stage in planned)
    titles = ["stage", "strategy", "samples", "micro-batch", "weights", "gradients", "moments", "activations"]
    rows: list[Sequence[str]] = [[*titles, "total", "fits", *(["GPU"] if by_gpu else [])]]
    for stage in planned:
        m = stage.memory
        sizes = [size(part) for part in (m.weights, m.gradients, m.optimizer, m.activations, m.total)]
        micro = "none fits" if stage.micro_batch_size is None else str(stage.micro_batch_size)
        rows.append(
            [
                stage.name,
                stage.strategy,
                str(stage.samples),
                micro,
                *sizes,
                stage.fits,
                *([stage.gpu or ""] if by_gpu else []),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"each of {world} processes:" if world > 1 else "one process:",
        *("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows),
    ]
