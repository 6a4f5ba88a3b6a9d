"""Times a few optimizer steps of each stage, with the trainer's own parts. Nothing is written or kept."""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from vlm_core.diagnose.costs.measured_steps import MeasureOptions, StepCosts
from vlm_core.errors import UserError
from vlm_core.model_folder import assemble
from vlm_core.spec.spec import Spec
from vlm_train.config.train import TrainConfig
from vlm_train.distributed import process_group
from vlm_train.distributed.accelerator import accelerator_of
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine import lr_schedule
from vlm_train.engine.stage_batches import total_steps
from vlm_train.engine.stage_state import StageState, cast_frozen_to_bf16
from vlm_train.engine.train_step import take_step
from vlm_train.engine.trainer import frozen_parts
from vlm_train.loss import target_count
from vlm_train.micro_batch.auto import largest
from vlm_train.micro_batch.device_memory import device_memory
from vlm_train.monitoring.throughput import WARMUP_STEPS, ThroughputMeter, peak_memory
from vlm_train.profiling.sample_steps import SampleSteps, sample_steps
from vlm_train.seeds import stage_seed

SECONDS = 10.0
"""A stage is timed for at least this long, within the limits below."""
LEAST_STEPS, MOST_STEPS = 3, 50
"""Timed steps of a stage; before them, `WARMUP_STEPS` are not timed."""


def profile_stages(spec: Spec, train: TrainConfig, options: MeasureOptions) -> list[StepCosts]:
    """Measured costs of every stage on one device, with its share of the batch among `options.gpus` devices.

    Weights are random, since their values do not change the costs. Raises `UserError` in a group of processes and for a
    batch that the devices do not divide.
    """
    if process_group.place():
        raise UserError("--measure runs in one process on one device: start it without a launcher")
    shares = []
    for stage in train.stages:
        if stage.batch_size % options.gpus:
            raise UserError(
                f"stage {stage.name}: batch_size {stage.batch_size} is not divisible by {options.gpus} devices"
            )
        shares.append(stage.model_copy(update={"batch_size": stage.batch_size // options.gpus}))
    shared = train.model_copy(update={"stages": shares, "feature_cache": None})
    accelerator = accelerator_of(shared)
    before = psutil.Process().memory_info().rss
    profiles = []
    for number in range(len(train.stages)):
        profiles.append(_Profiler(spec, shared, number, accelerator).profile(options, before))
        accelerator.free_memory()
        gc.collect()
    return profiles


class _Profiler:
    """One stage of a fresh model on the device of `accelerator`."""

    def __init__(self, spec: Spec, train: TrainConfig, number: int, accelerator: Accelerator) -> None:
        self.spec, self.train, self.number, self.accelerator = spec, train, number, accelerator
        self.stage, self.device = train.stages[number], accelerator.device
        self.bf16 = train.precision == "bf16"
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        with torch.device(self.device):
            self.model = assemble.build(spec, weights=False, seed=train.seed).to(self.device)
        self.strategy = DDPStrategy(accelerator, bf16=self.bf16)
        self.state = StageState(self.model, self.stage, stage_seed(train.seed, number))
        if self.bf16:
            cast_frozen_to_bf16(self.model, frozen_parts(train, number))
        self.state.start(self.strategy, recompute=train.activation_checkpointing, graphs=train.cuda_graphs)
        lr_schedule.set_rates(self.state.optimizer, 1.0)

    def profile(self, options: MeasureOptions, before: int) -> StepCosts:
        """`before`: bytes of this process before the first stage."""
        micro = self._micro_batch_size()
        steps = sample_steps(
            self.spec, self.model, self.train, self.number, micro, options.text, self.accelerator
        )
        on_cpu = self.device.type == "cpu"
        measured = self._timed(steps)
        self.state.close()
        peak = peak_memory(self.device)
        return StepCosts(
            stage=self.stage.name,
            device=self._device_name(),
            gpus=options.gpus,
            samples=self.stage.batch_size,
            micro_batch_size=micro,
            **measured,
            peak_memory=peak,
            growth=peak - before if on_cpu else None,
            reserved=torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else None,
            steps=self._total_steps(steps, options.gpus),
            synthetic=steps.synthetic,
        )

    def _micro_batch_size(self) -> int:
        share = self.stage.batch_size
        if self.stage.micro_batch_size == "auto":
            memory = device_memory(self.device, self.model)
            return largest(self.state, self.train, memory, encoded=False)[0]
        return min(share, self.stage.micro_batch_size or share)

    def _timed(self, steps: SampleSteps) -> dict[str, Any]:
        """Means over the timed steps, as fields of `StepCosts`."""
        meter = ThroughputMeter(self.device, bf16=self.bf16)
        timed, tokens, metrics, began, cpu = 0, 0, {}, 0.0, 0.0
        for number, batches in enumerate(meter.waiting(steps.batches), 1):
            if number == WARMUP_STEPS:  # the first step of a meter is not in its rates, and counts FLOPs
                meter = ThroughputMeter(self.device, bf16=self.bf16)
            count = sum(batch.input_ids.numel() for batch in batches)
            outcome = meter.count_flops(partial(self._step, batches), count)
            self.state.after_step(outcome)
            metrics = meter.after_step(self.stage.batch_size, count)
            if number == WARMUP_STEPS:
                began, cpu = time.perf_counter(), time.process_time()
            if number > WARMUP_STEPS:
                timed, tokens = timed + 1, tokens + count
                enough = timed >= LEAST_STEPS and time.perf_counter() - began >= SECONDS
                if enough or timed == MOST_STEPS:
                    break
        cpu_seconds = (time.process_time() - cpu) / timed if self.device.type == "cpu" else None
        return {
            "timed": timed,
            "seconds": meter.step_seconds,
            "cpu_seconds": cpu_seconds,
            "tokens": tokens / timed,
            "mfu": metrics.get("mfu"),
        }

    def _step(self, batches: list[Any]) -> Any:
        targets = sum(target_count(batch) for batch in batches)
        module, optimizer = self.state.module, self.state.optimizer
        clip, graphs = self.stage.max_grad_norm, self.state.graphs
        return take_step(self.strategy, module, optimizer, batches, clip, targets, graphs)

    def _total_steps(self, steps: SampleSteps, gpus: int) -> int | None:
        """Optimizer steps of the stage; None if its data are not here."""
        if steps.rows is None and not self.stage.steps:
            return None
        whole = self.stage.model_copy(update={"batch_size": gpus * self.stage.batch_size})
        return total_steps(whole, steps.rows or 0)

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads()
        return f"{self.device.type} with {threads} thread{'s' * (threads != 1)}"
