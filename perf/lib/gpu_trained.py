"""A model with random weights on the processes of a group, trained on random samples by the trainer's own parts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState
from perf.lib.tables import timed

from vlm_core.model import VLM
from vlm_core.model_folder.assemble import build
from vlm_core.spec.spec import load_spec
from vlm_core.text.batch import Batch
from vlm_train.config.section import train_section
from vlm_train.distributed import process_group
from vlm_train.distributed.accelerator import accelerator_of
from vlm_train.distributed.select import strategy_of
from vlm_train.distributed.step_control import exchange
from vlm_train.engine.stage_state import StageState, cast_frozen_to_bf16
from vlm_train.engine.train_step import take_step

SPEC = Path(__file__).parents[2] / "specs" / "vl-mamba-2.8b.yaml"
RATE = 1e-4
WARM_UP = 3


class Size(NamedTuple):
    """What stands in the spec's place: language model, tower, its blocks; text tokens a sample, samples, image size."""

    llm: str
    tower: str
    depth: int
    text: int
    samples: int
    image: int = 224

    def overrides(self) -> list[str]:
        depth = f"model_args: {{depth: {self.depth}}}"
        return [
            f"llm={self.llm}",
            f"encoder={{type: timm, model: {self.tower}, {depth}, image_size: {self.image}}}",
        ]


def samples(model: VLM, size: Size, seed: int) -> Batch:
    """An image and text each; of the text a random half is predicted, so processes differ in what they count."""
    generator = torch.Generator().manual_seed(seed)
    grid, length = model.image_tokens_by_default, model.image_tokens_by_default + size.text
    ids = torch.randint(model.llm.vocab_size, (size.samples, length), generator=generator)
    image_mask = (torch.arange(length) < grid).expand(size.samples, -1)
    loss_mask = ~image_mask & (torch.rand(ids.shape, generator=generator) < 0.5)
    pixels = torch.rand(size.samples, 3, *model.encoder.image_size, generator=generator)
    return Batch(ids, image_mask, loss_mask, None, pixels)


class Trained:
    """One process's part of a model that trains connector and language model, as the spec's last stage.

    `share` is the number of processes that a whole step's samples are for.
    """

    def __init__(self, size: Size, strategy: str, precision: str, share: int) -> None:
        settings = [f"train.strategy={strategy}", f"train.precision={precision}"]
        train = train_section(*load_spec(SPEC, [*size.overrides(), *settings]))
        AcceleratorState._reset_state()  # it holds one precision a process
        self.strategy = strategy_of(train, accelerator_of(train))
        self.device, self.size, self.share = self.strategy.accelerator.device, size, share
        self.model, self.stage = build(load_spec(SPEC, size.overrides())[0], weights=False), train.stages[-1]
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if precision == "bf16":
            cast_frozen_to_bf16(self.model, ["encoder"])
        if not self.strategy.sharded:
            self.model.to(self.device)
        self.stage_state = StageState(self.model, self.stage, seed=0)
        self.stage_state.start(self.strategy)
        for group in self.stage_state.optimizer.param_groups:
            group["lr"] = RATE

    def batches(self, number: int) -> list[Batch]:
        """Of a step's samples those of this process, or, for a process alone, all, one batch a process."""
        here = process_group.place()
        mine = range(self.share) if here is None else [here.rank]
        return [samples(self.model, self.size, number * self.share + i).to(self.device) for i in mine]

    def step(self, batches: Sequence[Batch]) -> float:
        """-> the loss of the whole step."""
        module, optimizer = self.stage_state.module, self.stage_state.optimizer
        targets = exchange(self.strategy.accelerator, batches).targets
        return take_step(self.strategy, module, optimizer, batches, self.stage.max_grad_norm, targets).loss


def seconds(trained: Trained, count: int, steps: int) -> float:
    """A step's median with `count` samples in each process; all processes wait for one another in each."""
    batch = samples(trained.model, trained.size._replace(samples=count), seed=0).to(trained.device)

    def step() -> None:
        trained.step([batch])
        if trained.device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP):
        step()
    return statistics.median(timed(step) for _ in range(steps))
