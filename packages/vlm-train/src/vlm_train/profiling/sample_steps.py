"""The micro-batches of the steps that are timed: the spec's data, or made-up samples where these can't be read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import NamedTuple

from accelerate import Accelerator

from vlm_core.errors import UserError
from vlm_core.model import VLM
from vlm_core.spec.spec import Spec
from vlm_core.text.batch import Batch
from vlm_train.config.train import TrainConfig
from vlm_train.data.dataset import sample_processor
from vlm_train.data.mixture import joined
from vlm_train.engine.stage_batches import StageBatches, StageData
from vlm_train.loss import target_count
from vlm_train.micro_batch.longest_batch import assumed_batch


class SampleSteps(NamedTuple):
    """Batches by step, without end; number of rows, None if the data are not here; why samples are made up, or ""."""

    batches: Iterator[list[Batch]]
    rows: int | None
    synthetic: str = ""


def sample_steps(
    spec: Spec, model: VLM, train: TrainConfig, number: int, micro: int, text: int, accelerator: Accelerator
) -> SampleSteps:
    """Steps of stage `number` in micro-batches of `micro` samples, from the stage's first step on, again and again."""
    stage, rows = train.stages[number], None
    try:
        data = joined(stage.data)
        rows = len(data)
        reader = sample_processor(model, spec, train, stage)
        batches = StageBatches(model, train, number, StageData(data, reader), accelerator)
        batches.micro_batch_size = micro
        endless = chain.from_iterable(batches.from_step(0) for _ in repeat(None))
        steps = map(batches.batches, endless)
        first = next(steps)
        if any(target_count(batch) for batch in first):
            return SampleSteps(chain([first], steps), rows)
        reason = "the rows of the first step can't be used"
    except (UserError, OSError) as error:
        reason = str(error).split("\n", 1)[0][:200]
    sizes = [min(micro, stage.batch_size - first) for first in range(0, stage.batch_size, micro)]
    made_up = [assumed_batch(model, train, size, text) for size in sizes]
    length = made_up[0].input_ids.shape[1]
    return SampleSteps(repeat(made_up), rows, f"synthetic samples of {length} positions: {reason}")
