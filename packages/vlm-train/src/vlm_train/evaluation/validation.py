"""Loss on `train.validation`'s rows and some answers, while a stage trains; training goes on unchanged."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from vlm_core.io.images import ImageSource, image_name, thumbnail
from vlm_core.model import VLM
from vlm_core.text.batch import Batch, collate, empty_batch
from vlm_core.text.render import TooLong, has_question
from vlm_train.checkpoint.run_dir import VALIDATION
from vlm_train.config.evaluation import HeldOutQA, Validation
from vlm_train.data.dataset import SampleProcessor
from vlm_train.distributed import watchdog
from vlm_train.engine.evaluator import Evaluator, resting
from vlm_train.engine.stage_state import StageState
from vlm_train.evaluation.held_out import ask, spread
from vlm_train.evaluation.held_out_answers import question
from vlm_train.loss import SummedLoss, target_count

SAMPLES = 4
"""Rows that are answered unless the spec says how many."""


class ValidationLoss(Evaluator):
    """Measures one stage's model on the rows of `train.validation`."""

    file = VALIDATION

    def __init__(
        self,
        settings: Validation,
        rows: Sequence[dict[str, Any]],
        reader: SampleProcessor,
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.reader, self.accelerator = settings, reader, accelerator
        self.every = settings.every
        self.rows = self.chosen(settings, rows)

    @staticmethod
    def chosen(settings: Validation | None, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that are measured: `settings.rows` of them, at even distances."""
        return spread(rows, None if settings is None or settings.rows == "all" else settings.rows)

    def measure(self, stage_state: StageState) -> dict[str, Any]:
        """Loss, the average's too if there is one, and answers to some rows."""
        module = stage_state.strategy.unwrapped(stage_state.module)
        found: dict[str, Any] = {"loss": self.loss(module)}
        if stage_state.average:
            with stage_state.averaged():
                found["average_loss"] = self.loss(module)
        with stage_state.strategy.unsharded(module):
            found["samples"] = self.samples(stage_state.model) if self.accelerator.is_main_process else []
            self.accelerator.wait_for_everyone()
        return found

    def loss(self, module: SummedLoss) -> float | None:
        """Mean loss over all targets of the rows, in nats; None if there is no target. The same on every process.

        Every process has its share of `module`.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        with resting(module), module.reading_pixels(), self.accelerator.autocast():
            for batch, counts in self._batches():
                watchdog.beat("validating", patient=True)
                found = float(module(batch.to(self.accelerator.device)))
                sums += torch.tensor([found, target_count(batch)], dtype=torch.float64) * counts
        total = self.accelerator.reduce(sums.float().to(self.accelerator.device), "sum")
        loss, targets = total.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        return loss / targets if targets else None

    def _batches(self) -> Iterator[tuple[Batch, bool]]:
        """This process's batches and whether each counts.

        Every process gives equally many, for sharded weights are gathered by all or none; a blank one doesn't count.
        """
        world, rank, size = (
            self.accelerator.num_processes, self.accelerator.process_index, self.settings.batch_size,
        )  # fmt: skip
        most = -(-len(self.rows) // world)
        own = self.rows[rank::world]
        for start in range(0, most, size):
            part = own[start : start + size]
            batch = self._batch(part)
            if batch is not None or world > 1:
                yield batch or empty_batch(), batch is not None

    def _batch(self, rows: Sequence[dict[str, Any]]) -> Batch | None:
        examples = []
        for row in rows:
            try:
                examples.append(self.reader.read(row))
            except TooLong:  # as in training, where such rows are counted
                continue
        pixels = [p for example in examples for p in example.images]
        return collate([example.sample for example in examples], pixels) if examples else None

    def samples(self, model: VLM) -> list[dict[str, Any]]:
        """Question, answer and truth of some rows; greedy."""
        count = self.settings.samples
        if count is None:
            count = SAMPLES if has_question(self.reader.template) else 0
        rows = spread(self.rows, count) if count else []
        asking = HeldOutQA.model_construct(max_new_tokens=self.settings.max_new_tokens, batch_size=16)
        with resting(model):
            return [
                {"id": a.row["id"], "asked": question(a.row), "said": a.said, "truth": a.truth,
                 **_pictures(a.row["image"])}
                for a in ask(model, rows, self.reader, asking)
            ]  # fmt: skip


def _pictures(images: Sequence[ImageSource]) -> dict[str, Any]:
    """The images by name, and a small copy of the first one: a page about a run opens no file outside of its folder."""
    found: dict[str, Any] = {"images": [image_name(image) for image in images]}
    if images:
        found["thumbnail"] = base64.b64encode(thumbnail(images[0])).decode()
    return found
