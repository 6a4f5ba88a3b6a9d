"""The micro-batches of a stage: rows in the order of its seed, read, dropped or collated, and grouped by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from vlm_core.model import VLM
from vlm_core.text.batch import Batch, empty_batch
from vlm_train.config.train import Stage, TrainConfig
from vlm_train.data import data_workers
from vlm_train.data.collate import MicroBatch, to_micro_batch
from vlm_train.data.dataset import Examples, SampleProcessor
from vlm_train.data.mixture import ConcatRows, order_of
from vlm_train.data.order.row_lengths import image_positions
from vlm_train.data.order.sampler import StepSampler
from vlm_train.feature_cache.cache import Features
from vlm_train.monitoring.run_messages import log_on_main
from vlm_train.seeds import stage_seed


class StageData(NamedTuple):
    """The rows of a stage, what makes samples of them, and the feature cache if the stage uses one."""

    rows: ConcatRows
    reader: SampleProcessor
    features: Features | None = None


def total_steps(stage: Stage, rows: int) -> int:
    """`steps`; without it as many as `epochs` (default 1) of `rows` rows take, or of `samples_per_epoch`."""
    rows = sum(stage.samples_per_epoch) if stage.samples_per_epoch else rows
    return stage.steps or max(1, math.ceil((stage.epochs or 1.0) * rows / stage.batch_size))


class StageBatches:
    """One process's share of every step of stage `number`."""

    def __init__(
        self, model: VLM, train: TrainConfig, number: int, data: StageData, accelerator: Accelerator
    ) -> None:
        self.model, self.train, self.stage, self.data = model, train, train.stages[number], data
        self.accelerator = accelerator
        self.examples = Examples(data.rows, data.reader.read)
        self.steps = total_steps(self.stage, len(data.rows))
        self.micro_batch_size: int | None = None
        """Samples of a micro-batch, None for all of the process's share; the trainer sets the number of `auto`."""
        if self.stage.micro_batch_size != "auto":
            self.micro_batch_size = self.stage.micro_batch_size
        self._seed = stage_seed(train.seed, number)
        self.order = order_of(self.stage, data.rows, self._seed, partial(image_positions, data.rows, model))

    def precompute_features(self, first: int) -> None:
        """With a feature cache: compute the features that steps from `first` on need, and read these, not pixels."""
        if features := self.data.features:
            self.model.encoder.to(self.accelerator.device)
            size, rows = self.stage.batch_size, self.data.rows
            ahead = self.order.rows_between(first * size, self.steps * size)
            self.examples = Examples(rows, features.ready(self.data.reader, rows, ahead).read)

    def from_step(self, first: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step from `first` on, this process's share."""
        sampler = StepSampler(
            len(self.examples),
            self.stage.batch_size,
            self.steps,
            seed=self._seed,
            first_step=first,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            micro=self.micro_batch_size,
            order=self.order,
        )
        micros: list[MicroBatch] = []
        for micro in data_workers.read(self._loader(sampler)):
            micros.append(micro)
            if len(micros) == sampler.micro_batches:
                yield micros
                micros = []

    def _loader(self, sampler: StepSampler) -> DataLoader:
        capacity = self.train.max_length if self.stage.packing else None
        return DataLoader(
            self.examples,
            batch_sampler=sampler,
            collate_fn=partial(to_micro_batch, capacity=capacity, encoded=self.data.features is not None),
            num_workers=self._workers(sampler.micro),
            generator=torch.Generator().manual_seed(self.train.seed),
            worker_init_fn=data_workers.start_training_worker,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _workers(self, samples: int) -> int:
        """Data-loading processes for micro-batches of so many samples, taken as samples of one image each."""
        height, width = self.model.encoder.image_size
        samples *= self.model.image_processor.most_views
        device = self.accelerator.device.type
        count = data_workers.worker_count(self.train.num_workers, device, samples * 3 * height * width * 4)
        if self.train.num_workers == "auto" and device != "cpu":
            text = f"stage {self.stage.name}: num_workers: auto is {count.number} ({count.reason})"
            log_on_main(self.accelerator, text)
        return count.number

    def batches(self, micros: Sequence[MicroBatch]) -> list[Batch]:
        """The batches of a step. All processes take equally many: one without samples is an empty batch."""
        batches = [micro.batch for micro in micros]
        if self.accelerator.num_processes > 1:
            return [empty_batch() if batch is None else batch for batch in batches]
        return [batch for batch in batches if batch is not None]
