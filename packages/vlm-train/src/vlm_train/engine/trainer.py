"""The training loop of a stage: token-weighted optimizer steps, metrics, evaluations and checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from accelerate.utils import gather_object

from vlm_core.cli.progress import Progress
from vlm_core.errors import UserError
from vlm_core.model import PARTS, VLM
from vlm_core.numerics.linear_cross_entropy import chunks_logits
from vlm_core.text.batch import padding_share
from vlm_train.checkpoint import checkpoint
from vlm_train.checkpoint.checkpoint import Position, Saved
from vlm_train.checkpoint.run_dir import CHECKPOINTS, RunDir
from vlm_train.config.train import TrainConfig
from vlm_train.data.collate import MicroBatch
from vlm_train.data.dataset import TOO_LONG, DroppedSample
from vlm_train.distributed import preemption, step_control, watchdog
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine import lr_schedule
from vlm_train.engine.bad_samples import DroppedSamples
from vlm_train.engine.evaluator import Evaluator
from vlm_train.engine.stage_batches import StageBatches, StageData
from vlm_train.engine.stage_state import StageState, cast_frozen_to_bf16
from vlm_train.engine.train_step import Outcome, take_step
from vlm_train.loss import target_count
from vlm_train.monitoring.run_messages import log_on_main
from vlm_train.monitoring.throughput import WARMUP_STEPS, ThroughputMeter, step_texts
from vlm_train.seeds import stage_seed, step_seed

log = logging.getLogger(__name__)
WHOLE_LOGITS = (
    "the loss needs the logits of all target tokens at once, since the output layer is wrapped, hooked or more than a "
    "linear layer; with a smaller micro_batch_size they take less memory"
)


def frozen_parts(train: TrainConfig, number: int) -> list[str]:
    """Parts that have the spec's weights during stage `number`; LoRA adapters do not change a part until merged."""
    stage, earlier = train.stages[number], train.stages[:number]
    changed = stage.trained_parts() | {part for before in earlier for part in before.trainable}
    return [part for part in PARTS if part not in changed]


class _Monitors(NamedTuple):
    """What observes the steps of one call of `fit`."""

    meter: ThroughputMeter
    dropped: DroppedSamples
    progress: Progress


class AutoSize(Protocol):
    """Chooses the micro-batch size of a started stage with `micro_batch_size: auto`; all processes call it together."""

    def __call__(self, state: StageState, train: TrainConfig, run: RunDir, *, encoded: bool) -> int: ...


class StageTrainer:
    """Trains stage `number` of a run from a position to its end; `auto_size` is for `micro_batch_size: auto`."""

    def __init__(
        self,
        model: VLM,
        train: TrainConfig,
        number: int,
        data: StageData,
        run: RunDir,
        strategy: DDPStrategy,
        evaluators: Sequence[Evaluator] = (),
        auto_size: AutoSize | None = None,
    ) -> None:
        self.train, self.number, self.stage = train, number, train.stages[number]
        self.model, self.run, self.strategy, self.evaluators = model, run, strategy, evaluators
        self.accelerator, self._auto_size = strategy.accelerator, auto_size
        self.batches = StageBatches(model, train, number, data, self.accelerator)
        self.steps = self.batches.steps
        if self.stage.packing and not model.llm.supports_packing:
            raise UserError(
                f"stage {self.stage.name}: packing needs a language model that keeps samples apart; "
                "this one can't: remove packing, or set group_by_length"
            )
        self._seed = stage_seed(train.seed, number)
        self.stage_state = StageState(model, self.stage, self._seed)
        self.saved: Saved | None = None
        self.failed_saves = 0
        self._saved_step = 0

    @property
    def trained_parts(self) -> list[str]:
        """Parts whose own weights differ from the spec's; adapters not yet merged are saved apart from them."""
        return sorted(set(PARTS) - set(frozen_parts(self.train, self.number)))

    def restore(self, path: Path) -> None:
        """Load a checkpoint of this stage; the optimizer takes its state from it in `fit`."""
        self.saved = checkpoint.restore(path, self.model)
        self.stage_state.load(self.saved)

    @property
    def uses_up(self) -> bool:
        """Whether the model can't be used after `fit`, as it is sharded or its frozen weights are rounded."""
        return self.strategy.sharded or self.train.precision == "bf16"

    def fit(self, position: Position) -> Position:
        """Train from `position` to the end of the stage. Raises `Stopped` after a signal to any process."""
        steps = self._start(position.step)
        self._saved_step = position.step
        main, bf16 = self.accelerator.is_main_process, self.train.precision == "bf16"
        meter = ThroughputMeter(self.accelerator.device, self.accelerator.num_processes, bf16=bf16)
        dropped = DroppedSamples(self.train, self.number, len(self.batches.examples), self.run, position.step)
        progress = Progress(self.stage.name, self.steps, position.step, warmup=WARMUP_STEPS, quiet=not main)
        with progress, preemption.defer():
            monitors = _Monitors(meter, dropped, progress)
            for micros in meter.waiting(steps):
                position = self._step(position, micros, monitors)
            if step_control.exchange(self.accelerator, [], stop=preemption.requested()).stops:
                self._stop(position)
        self.stage_state.close()
        self.accelerator.free_memory()
        return position

    def _start(self, first: int) -> Iterator[list[MicroBatch]]:
        """Prepare model and optimizer; -> the micro-batches of each step from `first` on."""
        if self.train.precision == "bf16":
            cast_frozen_to_bf16(self.model, frozen_parts(self.train, self.number))
        if not chunks_logits(self.model.llm):
            log_on_main(self.accelerator, f"stage {self.stage.name}: {WHOLE_LOGITS}")
        self.batches.precompute_features(first)
        recompute, encoded = self.train.activation_checkpointing, bool(self.batches.data.features)
        self.stage_state.start(
            self.strategy, self.saved, recompute=recompute, encoded=encoded, graphs=self.train.cuda_graphs
        )
        if self.stage.micro_batch_size == "auto":
            assert self._auto_size
            self.batches.micro_batch_size = self._auto_size(
                self.stage_state, self.train, self.run, encoded=encoded
            )
        steps = self.batches.from_step(first)
        return self._checked_lora(steps) if self.stage_state.adapters else steps

    def _step(self, position: Position, micros: Sequence[MicroBatch], monitors: _Monitors) -> Position:
        """One optimizer step and whatever is due after it: metrics, evaluations, a checkpoint."""
        batches = self.batches.batches(micros)
        dropped = [item for micro in micros for item in micro.dropped]
        control = step_control.exchange(self.accelerator, batches, len(dropped), preemption.requested())
        if control.stops:
            self._stop(position)
        too_long = (
            self._record_dropped(monitors.dropped, position.step + 1, dropped) if control.dropped else 0
        )
        self._seed_step(position.step)
        module, optimizer = self.stage_state.module, self.stage_state.optimizer
        share = lr_schedule.share(self.stage, position.step, self.steps)
        lr_schedule.set_rates(optimizer, share)
        tokens = sum(batch.input_ids.numel() for batch in batches)
        clip, graphs = self.stage.max_grad_norm, self.stage_state.graphs
        step = partial(take_step, self.strategy, module, optimizer, batches, clip, control.targets, graphs)
        positions = graphs.positions(batches) if graphs else tokens
        outcome = monitors.meter.count_flops(step, positions)
        self.stage_state.after_step(outcome)
        position = self._after(position, tokens, too_long, outcome)
        metrics = monitors.meter.after_step(self.stage.batch_size // self.accelerator.num_processes, tokens)
        metrics |= {"padding": round(padding_share(batches), 4)}
        if retries := sum(micro.io_retries for micro in micros):
            metrics["io_retries"] = retries
        lr = max(group["lr"] for group in optimizer.param_groups)
        monitors.progress.update(position.step, step_texts(outcome.loss, lr, metrics))
        self._record(position, outcome, share, metrics)
        self._measure(position)
        if position.step % self.train.checkpoint_every == 0 or position.step == self.steps:
            self._save(position)
        watchdog.beat(self._where(position))
        monitors.meter.pause()
        return position

    def _where(self, position: Position) -> str:
        return f"after step {position.step} of stage {self.stage.name}"

    def _stop(self, position: Position) -> NoReturn:
        """Save, unless that was done at this step, and raise `Stopped`; all processes call it together."""
        if position.step != self._saved_step:
            self._save(position)
        raise preemption.stopped(self._where(position))

    def _checked_lora(self, steps: Iterator[list[MicroBatch]]) -> Iterator[list[MicroBatch]]:
        """The same steps, once every adapter has got a gradient from the first batch with a target."""
        consumed = []
        for micros in steps:
            consumed.append(micros)
            batches = self.batches.batches(micros)
            if step_control.exchange(self.accelerator, batches).targets:
                batch = max(
                    batches, key=lambda batch: target_count(batch) > 0
                )  # the first with one, or the first
                with self.stage_state.check_lora_gradients(), self.accelerator.autocast():
                    self.stage_state.module(batch.to(self.accelerator.device)).backward()
                break
        return chain(consumed, steps)

    def _seed_step(self, step: int) -> None:
        """Dropout is a function of seed and step, so resuming needs no generator's state."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed(step_seed(self._seed, step, rank, world))

    def _record_dropped(self, record: DroppedSamples, step: int, dropped: list[DroppedSample]) -> int:
        """Record the samples that any process dropped in a step; -> how many of them were too long."""
        everywhere: list[DroppedSample] = gather_object(dropped)
        record.record(step, everywhere, write=self.accelerator.is_main_process)
        return sum(item.reason == TOO_LONG for item in everywhere)

    def _after(self, position: Position, tokens: int, dropped: int, outcome: Outcome) -> Position:
        """The position after a step. Raises `UserError` if its numbers were not finite and it may not be skipped."""
        position = replace(
            position,
            step=position.step + 1,
            tokens=position.tokens + tokens,
            dropped=position.dropped + dropped,
            skipped=position.skipped + (not outcome.finite),
            world=self.accelerator.num_processes,
        )
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
            loss, norm = (x if math.isfinite(x) else None for x in (outcome.loss, outcome.norm))
            step = {"loss": loss, "grad_norm": norm, "targets": outcome.targets}
            rates = {part: self.stage.rate(part) * share for part in self.stage.trainable}
            self.run.log(
                {**self._place(position), **step, "lr": rates, "skipped": position.skipped, **metrics}
            )

    def _place(self, position: Position) -> dict[str, Any]:
        return {"stage": self.number, "name": self.stage.name, "step": position.step}

    def _measure(self, position: Position) -> None:
        """Run the evaluators that are due; before the checkpoint, so that a resumed run misses none."""
        for evaluator in self.evaluators:
            if evaluator.due(position.step, self.steps):
                watchdog.beat(f"measuring at step {position.step}", patient=True)
                metrics = evaluator.measure(self.stage_state)
                if self.accelerator.is_main_process:
                    self.run.log({**self._place(position), **metrics}, name=evaluator.file)

    def _save(self, position: Position) -> None:
        """Write a checkpoint. A failure is logged, and is an error only if the model is lost without this one."""
        watchdog.beat(f"saving at step {position.step}", patient=True)
        self.strategy.assert_in_sync(self.stage_state.module)
        main, parts, root = self.accelerator.is_main_process, self.trained_parts, self.run.path / CHECKPOINTS
        path = checkpoint.path_of(root, self.stage.name, position)
        writers = self.accelerator.num_processes if self.strategy.sharded else 1
        if main:
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
            if main:
                log.warning(
                    "no checkpoint at step %d (%d so far): %s", position.step, self.failed_saves, fault
                )
        else:
            self._saved_step = position.step
            if main:
                checkpoint.rotate(root, self.train.keep_checkpoints)
        self.accelerator.wait_for_everyone()
