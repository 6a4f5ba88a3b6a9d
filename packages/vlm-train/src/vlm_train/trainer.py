"""The loop of one stage: exact token-weighted steps, checkpoints, metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from vlm_core.batch import Batch, collate
from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_train import checkpoint, optim
from vlm_train.checkpoint import Position
from vlm_train.config import Stage, TrainConfig
from vlm_train.examples import Dropped, Example, Examples, Fault, Reader
from vlm_train.loss import SummedLoss, target_count
from vlm_train.progress import StageProgress
from vlm_train.rundir import CHECKPOINTS, RunDir
from vlm_train.sampler import StepSampler


@dataclass
class Micro:
    """One micro-batch as the loader gives it; `batch` is None if every row was dropped."""

    batch: Batch | None
    dropped: list[str]
    faults: list[str]


def to_micro(items: Sequence[Example | Dropped | Fault]) -> Micro:
    """The loader's collate function."""
    examples = [item for item in items if isinstance(item, Example)]
    batch = (
        collate([e.sample for e in examples], [p for e in examples for p in e.pixels]) if examples else None
    )
    return Micro(
        batch,
        [item.reason for item in items if isinstance(item, Dropped)],
        [item.message for item in items if isinstance(item, Fault)],
    )


def total_steps(stage: Stage, rows: int) -> int:
    """`steps`, or enough of them for `epochs` (default 1)."""
    return stage.steps or max(1, math.ceil((stage.epochs or 1.0) * rows / stage.batch_size))


class StageTrainer:
    """Trains one stage of a run from a position to its end."""

    def __init__(
        self, model: VLM, train: TrainConfig, number: int, rows: Sequence[dict[str, Any]], reader: Reader,
        run: RunDir, accelerator: Accelerator,
    ) -> None:  # fmt: skip
        self.train, self.number, self.stage = train, number, train.stages[number]
        self.model, self.run, self.accelerator = model, run, accelerator
        self.examples = Examples(rows, reader)
        self.steps = total_steps(self.stage, len(rows))
        self._seed = train.seed * 1000 + number
        self.trained_parts = sorted({part for stage in train.stages[: number + 1] for part in stage.trains})
        optim.freeze_all_but(model, list(self.stage.trains))
        self.optimizer = optim.optimizer(model, self.stage)
        if self.stage.batch_size % accelerator.num_processes:
            raise UserError(
                f"stage {self.stage.name}: batch_size {self.stage.batch_size} does not divide by "
                f"{accelerator.num_processes} processes"
            )

    def fit(self, position: Position, tensors: dict[str, torch.Tensor] | None = None) -> Position:
        """Run from `position` to the end of the stage; `tensors` is the optimizer's saved state."""
        if tensors:
            checkpoint.restore_optimizer(self.model, self.optimizer, tensors)
        loss_module, optimizer = self.accelerator.prepare(SummedLoss(self.model), self.optimizer)
        quiet = not self.accelerator.is_main_process
        with StageProgress(self.stage.name, self.steps, position.step, quiet) as progress:
            for micros in self._steps_of_batches(position.step):
                self._seed_step(position.step)
                share = optim.scale(position.step, self.steps, self.stage.warmup)
                optim.set_rates(self.optimizer, share)
                loss, norm, targets = self._step(loss_module, optimizer, micros)
                tokens = sum(m.batch.ids.numel() for m in micros if m.batch is not None)
                dropped = sum(len(m.dropped) for m in micros)
                position = Position(
                    self.number, position.step + 1, position.tokens + tokens, position.dropped + dropped
                )
                rate = progress.step(position.step, loss, tokens)
                self._record(position, loss, norm, targets, share, rate)
                if position.step % self.train.checkpoint_every == 0 or position.step == self.steps:
                    self._save(position)
        self.accelerator.free_memory(loss_module, optimizer)
        return position

    def _seed_step(self, step: int) -> None:
        """Dropout is a function of the step, as the data are: resuming needs no generator's state."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        torch.manual_seed(self._seed * 1_000_003 + step * world + rank)

    def _steps_of_batches(self, first: int) -> Iterator[list[Micro]]:
        """The micro-batches of each step, this process's share, in the order that the seed fixes."""
        sampler = StepSampler(
            len(self.examples), self.stage.batch_size, self.steps,
            seed=self._seed, first_step=first,
            rank=self.accelerator.process_index, world=self.accelerator.num_processes,
            micro=self.stage.micro_batch_size,
        )  # fmt: skip
        loader = DataLoader(
            self.examples, batch_sampler=sampler, collate_fn=to_micro, num_workers=self.train.workers,
            generator=torch.Generator().manual_seed(self.train.seed),
            pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip
        micros: list[Micro] = []
        for micro in loader:
            self._refuse(micro)
            micros.append(micro)
            if len(micros) == sampler.micro_batches:
                yield micros
                micros = []

    def _refuse(self, micro: Micro) -> None:
        where = f"stage {self.stage.name}"
        if micro.faults:
            raise UserError(f"{where}: {micro.faults[0]}")
        if micro.dropped and self.train.on_too_long == "error":
            raise UserError(f"{where}: {micro.dropped[0]}; raise train.max_length or set on_too_long: drop")

    def _step(self, loss_module: Any, optimizer: Any, micros: list[Micro]) -> tuple[float, float, int]:
        """One optimizer step: mean loss over all targets of the global batch, gradient norm, target count.

        A batch without any target changes nothing and counts as loss 0 over 0 targets.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        batches = [m.batch.to(device) for m in micros if m.batch is not None]
        counts = torch.tensor(sum(target_count(b) for b in batches), device=device)
        targets = int(accelerator.reduce(counts, "sum"))  # pyright: ignore[reportArgumentType]
        total = torch.zeros((), device=device)
        if targets == 0:
            return 0.0, 0.0, 0
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(loss_module):
                summed = loss_module(batch)
                # processes are averaged afterwards, so each scales its share by their number
                accelerator.backward(summed * accelerator.num_processes / targets)
            total += summed.detach()
        norm = accelerator.clip_grad_norm_(
            [p for g in self.optimizer.param_groups for p in g["params"]], self.stage.clip_norm
        )
        loss = float(accelerator.reduce(total, "sum")) / targets  # pyright: ignore[reportArgumentType]
        norm = float(norm)  # pyright: ignore[reportArgumentType]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"stage {self.stage.name}: loss {loss:.3g} with gradient norm {norm:.3g}; this step changed "
                "nothing and the last checkpoint is good: lower lr, or look at the data of this step"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss, norm, targets

    def _record(
        self, position: Position, loss: float, norm: float, targets: int, share: float, rate: float
    ) -> None:
        if self.accelerator.is_main_process:
            rates = {part: self.stage.rate(part) * share for part in self.stage.trains}
            self.run.log(
                {"stage": self.number, "name": self.stage.name, "step": position.step, "loss": loss,
                 "grad_norm": norm, "targets": targets, "lr": rates, "tokens_per_second": round(rate, 1)}
            )  # fmt: skip

    def _save(self, position: Position) -> None:
        if self.accelerator.is_main_process:
            root = self.run.path / CHECKPOINTS
            root.mkdir(exist_ok=True)
            checkpoint.save(root, self.stage.name, self.model, self.trained_parts, self.optimizer, position)
            checkpoint.rotate(root, self.train.keep_checkpoints)
        self.accelerator.wait_for_everyone()
