"""A model with random weights on the processes of a group, trained on random samples by the trainer's own parts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.state import AcceleratorState
from perf.lib.gpu import DEVICE
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
from vlm_train.engine import lr_schedule
from vlm_train.engine.stage_state import StageState, cast_frozen_to_bf16
from vlm_train.engine.train_step import take_step
from vlm_train.engine.trainer import frozen_parts

SPEC = Path(__file__).parents[2] / "specs" / "vl-mamba-2.8b.yaml"
WARM_UP = 3
TEXT = 256
"""Text tokens of a sample, as `--check` assumes."""
SMALLEST = [
    "encoder={type: timm, model: vit_tiny_patch16_224, model_args: {depth: 2}, image_size: 32}",
    "llm={type: mamba, d_model: 32, n_layer: 2, vocab_size: 96}",
    "train.max_length=300",
]
"""Changes to the spec for a model that any machine trains."""


def tower_and_llm(llm: str, tower: str, depth: int, image: int = 224) -> list[str]:
    """Changes to the spec for another language model and tower of `depth` blocks."""
    model = f"{{type: timm, model: {tower}, model_args: {{depth: {depth}}}, image_size: {image}}}"
    return [f"llm={llm}", f"encoder={model}"]


def layers(count: int) -> list[str]:
    """Changes to the spec for a language model of the same width with fewer layers."""
    return [f"llm={{type: mamba, d_model: 2560, n_layer: {count}, vocab_size: 50280}}"]


def samples(model: VLM, count: int, text: int, seed: int) -> Batch:
    """An image and text each; of the text a random half is predicted, so processes differ in what they count."""
    generator = torch.Generator().manual_seed(seed)
    grid, length = model.image_tokens_by_default, model.image_tokens_by_default + text
    ids = torch.randint(model.llm.vocab_size, (count, length), generator=generator)
    image_mask = (torch.arange(length) < grid).expand(count, -1)
    loss_mask = ~image_mask & (torch.rand(ids.shape, generator=generator) < 0.5)
    pixels = torch.rand(count, 3, *model.encoder.image_size, generator=generator)
    return Batch(ids, image_mask, loss_mask, None, pixels)


class WithoutUpdate:
    """In an optimizer's place: a step in which everything happens but the update of the weights."""

    def __init__(self, optimizer: Any) -> None:
        self.param_groups, self.zero_grad = optimizer.param_groups, optimizer.zero_grad

    def step(self) -> None:
        pass


class Part(NamedTuple):
    """What is trained: changes to the spec, the stage's index, strategy and precision."""

    changes: Sequence[str]
    stage: int = -1
    strategy: str = "auto"
    precision: str = "bf16"


class Trained:
    """One process's part of the spec's model in one of its stages, random weights, equal on all processes.

    `share` is the number of processes that a whole step's samples are for.
    """

    def __init__(self, part: Part, share: int = 1) -> None:
        changes = ["encoder.pretrained=false", *part.changes]
        settings = [f"train.strategy={part.strategy}", f"train.precision={part.precision}"]
        train = train_section(*load_spec(SPEC, [*changes, *settings]))
        AcceleratorState._reset_state()  # it holds one precision a process
        self.strategy = strategy_of(train, accelerator_of(train))
        self.device, self.share = self.strategy.accelerator.device, share
        number = part.stage % len(train.stages)
        self.stage = train.stages[number]
        with torch.device(self.device):  # a GPU draws billions of numbers in a second
            self.model = build(load_spec(SPEC, changes)[0], weights=False)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.stage_state = StageState(self.model, self.stage, seed=0)
        if part.precision == "bf16":
            cast_frozen_to_bf16(self.model, frozen_parts(train, number))
        self.stage_state.start(self.strategy, graphs=train.cuda_graphs)
        lr_schedule.set_rates(self.stage_state.optimizer, 1.0)

    def rate(self, value: float) -> None:
        """Set the learning rate; until then it is the spec's."""
        for group in self.stage_state.optimizer.param_groups:
            group["lr"] = value

    def batches(self, number: int, count: int, text: int = TEXT) -> list[Batch]:
        """Of a step's samples those of this process, or, for a process alone, all, one batch a process."""
        here = process_group.place()
        mine = range(self.share) if here is None else [here.rank]
        seeds = [number * self.share + i for i in mine]
        return [samples(self.model, count, text, seed).to(self.device) for seed in seeds]

    def step(self, batches: Sequence[Batch], *, update: bool = True) -> float:
        """-> the loss of the whole step; without `update` the weights stay."""
        module, optimizer = self.stage_state.module, self.stage_state.optimizer
        targets = exchange(self.strategy.accelerator, batches).targets
        optimizer = optimizer if update else WithoutUpdate(optimizer)
        clip, graphs = self.stage.max_grad_norm, self.stage_state.graphs
        return take_step(self.strategy, module, optimizer, batches, clip, targets, graphs).loss

    def close(self) -> None:
        self.stage_state.close()


def seconds(run: Callable[[], object], steps: int, warm_up: int = WARM_UP) -> float:
    """A step's median; with several processes, all wait for one another in each."""

    def step() -> None:
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(warm_up):
        step()
    return statistics.median(timed(step) for _ in range(steps))
