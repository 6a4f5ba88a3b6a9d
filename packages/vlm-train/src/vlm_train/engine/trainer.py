"""The loop of one stage: exact token-weighted steps, checkpoints, metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from vlm_core.cli.progress import Progress
from vlm_core.errors import UserError
from vlm_core.model import PARTS, VLM
from vlm_core.text.batch import Batch, empty_batch, padding_share
from vlm_train.checkpoint import checkpoint
from vlm_train.checkpoint.checkpoint import Position, Saved
from vlm_train.checkpoint.run_dir import CHECKPOINTS, RunDir
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data import data_workers
from vlm_train.data.collate import MicroBatch, to_micro_batch
from vlm_train.data.dataset import TOO_LONG, DroppedSample, Examples, SampleProcessor
from vlm_train.data.mixture import ConcatRows, order_of, stage_seed
from vlm_train.data.order.sampler import StepSampler
from vlm_train.distributed import preemption, watchdog
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine import lr_schedule
from vlm_train.engine.bad_samples import DroppedSamples
from vlm_train.engine.evaluator import Evaluator
from vlm_train.engine.stage_state import StageState, cast_frozen_to_bf16, table
from vlm_train.engine.train_step import Outcome, take_step
from vlm_train.feature_cache.cache import Features
from vlm_train.loss import target_count
from vlm_train.monitoring.run_messages import log_on_main
from vlm_train.monitoring.throughput import WARMUP_STEPS, ThroughputMeter, step_texts

log = logging.getLogger(__name__)


def total_steps(stage: Stage, rows: int) -> int:
    """`steps`, or enough of them for `epochs` (default 1) of `rows` rows, or as many as `counts` says."""
    rows = sum(stage.samples_per_epoch) if stage.samples_per_epoch else rows
    return stage.steps or max(1, math.ceil((stage.epochs or 1.0) * rows / stage.batch_size))


def frozen_parts(train: TrainConfig, number: int) -> list[str]:
    """Parts that still have the spec's weights during this stage; adapters not yet merged do not change a part."""
    stage, earlier = train.stages[number], train.stages[:number]
    changed = stage.trained_parts() | {part for before in earlier for part in before.trainable}
    return [part for part in PARTS if part not in changed]


class StageTrainer:
    """Trains one stage of a run from a position to its end."""

    def __init__(
        self, model: VLM, train: TrainConfig, number: int, rows: ConcatRows, reader: SampleProcessor,
        run: RunDir, strategy: DDPStrategy, evaluators: Sequence[Evaluator] = (), features: Features | None = None,
    ) -> None:  # fmt: skip
        self.train, self.number, self.stage = train, number, train.stages[number]
        self.model, self.run, self.strategy = model, run, strategy
        self.accelerator = strategy.accelerator
        self.reader, self.evaluators, self.features = reader, evaluators, features
        self.examples = Examples(rows, reader.read)
        self.steps = total_steps(self.stage, len(rows))
        self._seed = stage_seed(train.seed, number)
        self.order = order_of(self.stage, rows, self._seed, model.image_tokens_by_default)
        if self.stage.packing and not model.llm.supports_packing:
            raise UserError(
                f"stage {self.stage.name}: packing needs a language model that keeps samples apart; "
                "this one can't: remove packing, or set group_by_length"
            )
        self.stage_state = StageState(model, self.stage, self._seed)
        self.saved: Saved | None = None
        self.failed_saves = 0

    @property
    def trained_parts(self) -> list[str]:
        """Parts whose own weights differ from the spec's; adapters not yet merged are kept apart."""
        return sorted(set(PARTS) - set(frozen_parts(self.train, self.number)))

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of this stage."""
        self.saved = checkpoint.restore(path, self.model)
        self.stage_state.load(self.saved)

    @property
    def uses_up(self) -> bool:
        """Whether the model can't be used after `fit`, as it is sharded or its frozen weights are rounded."""
        return self.strategy.sharded or self.train.precision == "bf16"

    def fit(self, position: Position) -> Position:
        """Run from `position` to the end of the stage."""
        log_on_main(self.accelerator, *table(self.stage_state.groups).splitlines())
        if self.train.precision == "bf16":
            cast_frozen_to_bf16(self.model, frozen_parts(self.train, self.number))
        self.precompute_features(position.step)
        recompute, encoded = self.train.activation_checkpointing, bool(self.features)
        self.stage_state.start(self.strategy, self.saved, recompute=recompute, encoded=encoded)
        steps = self._steps_of_batches(position.step)
        if self.stage_state.adapters:
            steps = self._checked_lora(steps)
        loss_module, optimizer = self.stage_state.module, self.stage_state.optimizer
        quiet = not self.accelerator.is_main_process
        world, bf16 = self.accelerator.num_processes, self.train.precision == "bf16"
        meter = ThroughputMeter(self.accelerator.device, world, bf16=bf16)
        dropped_samples = DroppedSamples(self.train, self.number, len(self.examples), self.run, position.step)
        progress = Progress(self.stage.name, self.steps, position.step, warmup=WARMUP_STEPS, quiet=quiet)
        with progress, preemption.defer():
            for micros in meter.waiting(steps):
                dropped = self._record_dropped(dropped_samples, position.step + 1, micros)
                self._seed_step(position.step)
                share = lr_schedule.share(self.stage, position.step, self.steps)
                lr_schedule.set_rates(optimizer, share)
                batches = self._batches(micros)
                tokens = sum(batch.input_ids.numel() for batch in batches)
                step = partial(
                    take_step, self.strategy, loss_module, optimizer, batches, self.stage.max_grad_norm
                )
                outcome = meter.count_flops(step, tokens)
                self.stage_state.after_step(outcome)
                position = self._after(position, tokens, dropped, outcome)
                metrics = meter.after_step(self.stage.batch_size // world, tokens)
                metrics |= {"padding": round(padding_share(batches), 4)}
                if retries := sum(m.io_retries for m in micros):
                    metrics["io_retries"] = retries
                rate = max(group["lr"] for group in optimizer.param_groups)
                progress.update(position.step, step_texts(outcome.loss, rate, metrics))
                self._record(position, outcome, share, metrics)
                self._measure(position)
                stop = preemption.agreed(self.accelerator)
                if stop or position.step % self.train.checkpoint_every == 0 or position.step == self.steps:
                    self._save(position)
                where = f"after step {position.step} of stage {self.stage.name}"
                if stop:
                    raise preemption.stopped(where)
                watchdog.beat(where)
                meter.pause()
        self.stage_state.close()
        self.accelerator.free_memory()
        return position

    def _batches(self, micros: Sequence[MicroBatch]) -> list[Batch]:
        """The batches of a step. Several processes take equally many: what was left out whole is blank."""
        batches = [m.batch for m in micros]
        if self.accelerator.num_processes > 1:
            return [empty_batch() if batch is None else batch for batch in batches]
        return [batch for batch in batches if batch is not None]

    def precompute_features(self, first: int) -> None:
        """With a feature cache: compute what the steps from `first` on need, and read that instead of pixels."""
        if self.features:
            self.model.encoder.to(self.accelerator.device)
            size, rows = self.stage.batch_size, self.examples.rows
            ahead = self.order.rows_between(first * size, self.steps * size)
            self.examples = Examples(rows, self.features.ready(self.reader, rows, ahead).read)

    def _checked_lora(self, steps: Iterator[list[MicroBatch]]) -> Iterator[list[MicroBatch]]:
        """The same steps, after a check on their first batch with a target that every adapter gets a gradient."""
        consumed = []
        for micros in steps:
            consumed.append(micros)
            batches = self._batches(micros)
            with_targets = [b for b in batches if target_count(b)]
            if self._sum(len(with_targets)):
                batch = (with_targets or batches)[0].to(self.accelerator.device)
                with self.stage_state.check_lora_gradients(), self.accelerator.autocast():
                    self.stage_state.module(batch).backward()
                break
        return chain(consumed, steps)

    def _seed_step(self, step: int) -> None:
        """Dropout is a function of the step, as the data are: resuming needs no generator's state."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed(self._seed * 1_000_003 + step * world + rank)

    def _steps_of_batches(self, first: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step, this process's share, in the order that the seed fixes."""
        sampler = StepSampler(
            len(self.examples), self.stage.batch_size, self.steps,
            seed=self._seed, first_step=first,
            rank=self.accelerator.process_index, world=self.accelerator.num_processes,
            micro=self.stage.micro_batch_size, order=self.order,
        )  # fmt: skip
        capacity = self.train.max_length if self.stage.packing else None
        collate_fn = partial(to_micro_batch, capacity=capacity, encoded=self.features is not None)
        loader = DataLoader(
            self.examples, batch_sampler=sampler, collate_fn=collate_fn,
            num_workers=self.train.num_workers,
            generator=torch.Generator().manual_seed(self.train.seed), worker_init_fn=data_workers.start_training_worker,
            pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip
        micros: list[MicroBatch] = []
        for micro in data_workers.read(loader):
            micros.append(micro)
            if len(micros) == sampler.micro_batches:
                yield micros
                micros = []

    def _sum(self, count: int) -> int:
        """Over all processes."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(mine, "sum"))  # pyright: ignore[reportArgumentType]

    def _record_dropped(
        self, dropped_samples: DroppedSamples, step: int, micros: Sequence[MicroBatch]
    ) -> int:
        """Record the samples that any process dropped in a step; -> how many were too long."""
        dropped: list[DroppedSample] = [item for micro in micros for item in micro.dropped]
        if self._sum(len(dropped)) == 0:
            return 0
        dropped = gather_object(dropped)
        dropped_samples.record(step, dropped, write=self.accelerator.is_main_process)
        return sum(item.reason == TOO_LONG for item in dropped)

    def _after(self, position: Position, tokens: int, dropped: int, outcome: Outcome) -> Position:
        """Where the run stands after this step; raises `UserError` if the step is one that may not be left out."""
        position = replace(
            position, step=position.step + 1, tokens=position.tokens + tokens,
            dropped=position.dropped + dropped, skipped=position.skipped + (not outcome.finite),
            world=self.accelerator.num_processes,
        )  # fmt: skip
        if outcome.finite:
            return position
        seen = f"loss {outcome.loss:.3g} with gradient norm {outcome.norm:.3g}"
        advice = "the last checkpoint is good: lower lr, or look at the data of this step"
        where = f"stage {self.stage.name}, step {position.step}: {seen}; this step changed nothing"
        if self.train.on_non_finite == "error":
            raise UserError(f"{where} and {advice}, or set train.on_non_finite: skip")
        if position.skipped > self.train.non_finite_budget:
            raise UserError(
                f"{where}, and it is one more than train.non_finite_budget: {self.train.non_finite_budget} "
                f"allows; {advice}, or raise the budget in a new run"
            )
        if self.accelerator.is_main_process:
            log.warning("%s (%d of %d)", where, position.skipped, self.train.non_finite_budget)
        return position

    def _record(self, position: Position, outcome: Outcome, share: float, metrics: dict[str, Any]) -> None:
        """One line of metrics; a number that is not finite is null, and `skipped` counts such steps of the run."""
        if self.accelerator.is_main_process:
            rates = {part: self.stage.rate(part) * share for part in self.stage.trainable}
            loss, norm = (x if math.isfinite(x) else None for x in (outcome.loss, outcome.norm))
            self.run.log(
                {"stage": self.number, "name": self.stage.name, "step": position.step, "loss": loss,
                 "grad_norm": norm, "targets": outcome.targets, "lr": rates, "skipped": position.skipped, **metrics}
            )  # fmt: skip

    def _measure(self, position: Position) -> None:
        """What is due on validation rows and benchmarks; before the checkpoint, so that none is ever missing."""
        for evaluator in self.evaluators:
            if evaluator.due(position.step, self.steps):
                watchdog.beat(f"measuring at step {position.step}", patient=True)
                figures = evaluator.measure(self.stage_state)
                if self.accelerator.is_main_process:
                    place = {"stage": self.number, "name": self.stage.name, "step": position.step}
                    self.run.log({**place, **figures}, name=evaluator.file)

    def _save(self, position: Position) -> None:
        """Write a checkpoint; a disk that takes none doesn't end the run, unless what was learnt has no other place."""
        watchdog.beat(f"saving at step {position.step}", patient=True)
        self.strategy.assert_in_sync(self.stage_state.module)
        root, parts = self.run.path / CHECKPOINTS, self.trained_parts
        path = checkpoint.path_of(root, self.stage.name, position)
        writers = self.accelerator.num_processes if self.strategy.sharded else 1
        if self.accelerator.is_main_process:
            self.run.sync_logs()
        fault = checkpoint.save(
            path, lambda: self.stage_state.state_dict(parts), parts, position, self.accelerator, writers
        )
        if fault and position.step == self.steps and self.uses_up:
            raise UserError(
                fault,
                "the stage is complete except for this file; free some disk space, "
                "then rerun the same command to resume",
            )
        if fault:
            self.failed_saves += 1
            if self.accelerator.is_main_process:
                log.warning(
                    "no checkpoint at step %d (%d so far): %s", position.step, self.failed_saves, fault
                )
        elif self.accelerator.is_main_process:
            checkpoint.rotate(root, self.train.keep_checkpoints)
        self.accelerator.wait_for_everyone()
