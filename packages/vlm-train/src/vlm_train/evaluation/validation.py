"""Validation during a stage: loss on the rows of `train.validation`, and sample answers. Training is not affected."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import torch
from accelerate import Accelerator

from vlm_core.io.images import ImageSource, image_name, load_image
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
from vlm_train.evaluation.held_out_answers import Answer, question, summary
from vlm_train.loss import SummedLoss, target_count

SAMPLES = 4
"""Default of `train.validation.samples`."""


class ValidationLoss(Evaluator):
    """Evaluates one stage's model on the rows of `train.validation`."""

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
        """The rows to evaluate: `settings.rows` evenly spaced ones."""
        return spread(rows, None if settings is None or settings.rows == "all" else settings.rows)

    def measure(self, stage_state: StageState) -> dict[str, Any]:
        """`loss`, `samples` with answers, and what the settings add.

        `average_loss` is that of the averaged weights, `questions` and `accuracy` are as in `held_out_answers.summary`.
        """
        module = stage_state.strategy.unwrapped(stage_state.module)
        metrics: dict[str, Any] = {"loss": self.loss(module)}
        if stage_state.average:
            with stage_state.averaged():
                metrics["average_loss"] = self.loss(module)
        with stage_state.strategy.unsharded(module):
            if self.accelerator.is_main_process:
                metrics |= {"samples": self.samples(stage_state.model)} | self.accuracy(stage_state.model)
            else:
                metrics["samples"] = []
            self.accelerator.wait_for_everyone()
        return metrics

    def loss(self, module: SummedLoss) -> float | None:
        """Mean loss per target token in nats, the same on every process; None if there is no target.

        With a sharded `module`, all processes must call this together.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        with resting(module), module.reading_pixels(), self.accelerator.autocast():
            for batch, counts in self._batches():
                watchdog.beat("validating", patient=True)
                loss = float(module(batch.to(self.accelerator.device)))
                sums += torch.tensor([loss, target_count(batch)], dtype=torch.float64) * counts
        total = self.accelerator.reduce(sums.float().to(self.accelerator.device), "sum")
        loss, targets = total.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        return loss / targets if targets else None

    def _batches(self) -> Iterator[tuple[Batch, bool]]:
        """(batch, whether it counts) of this process.

        All processes yield equally many, since gathering sharded weights is collective; blank batches don't count.
        """
        world, rank, size = (
            self.accelerator.num_processes,
            self.accelerator.process_index,
            self.settings.batch_size,
        )
        longest_share = -(-len(self.rows) // world)
        rows = self.rows[rank::world]
        for start in range(0, longest_share, size):
            batch = self._batch(rows[start : start + size])
            if batch is not None or world > 1:
                yield batch or empty_batch(), batch is not None

    def _batch(self, rows: Sequence[dict[str, Any]]) -> Batch | None:
        examples = []
        for row in rows:
            try:
                examples.append(self.reader.read(row))
            except TooLong:  # training drops such rows, too
                continue
        pixels = [p for example in examples for p in example.images]
        return collate([example.sample for example in examples], pixels) if examples else None

    def samples(self, model: VLM) -> list[dict[str, Any]]:
        """Question, greedy answer and true answer of some rows."""
        count = self.settings.samples
        if count is None:
            count = SAMPLES if has_question(self.reader.template) else 0
        return [
            {
                "id": answer.row["id"],
                "asked": question(answer.row),
                "said": answer.text,
                "truth": answer.truth,
                **_image_record(answer.row["image"]),
            }
            for answer in self._answers(model, spread(self.rows, count) if count else [])
        ]

    def accuracy(self, model: VLM) -> dict[str, Any]:
        """`questions` and `accuracy` over `accuracy_rows` rows; empty if the settings ask for none."""
        if not (count := self.settings.accuracy_rows):
            return {}
        return summary(self._answers(model, spread(self.rows, None if count == "all" else count)))

    def _answers(self, model: VLM, rows: Sequence[dict[str, Any]]) -> list[Answer]:
        settings = HeldOutQA.model_construct(
            max_new_tokens=self.settings.max_new_tokens, batch_size=self.settings.batch_size
        )
        with resting(model):
            return ask(model, rows, self.reader, settings)


def _image_record(images: Sequence[ImageSource]) -> dict[str, Any]:
    """Names and a thumbnail: the report page opens no file outside of the run folder."""
    record: dict[str, Any] = {"images": [image_name(image) for image in images]}
    if images:
        record["thumbnail"] = base64.b64encode(_thumbnail(images[0])).decode()
    return record


def _thumbnail(source: ImageSource, size: int = 96) -> bytes:
    """An image as a small PNG file; raises `BadSample`."""
    image, file = load_image(source), BytesIO()
    image.thumbnail((size, size))
    image.save(file, "PNG")
    return file.getvalue()
