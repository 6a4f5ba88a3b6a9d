"""What a stage adds to the model while it learns: adapters, groups, optimizer, average; and what stays at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlm_core.model import VLM
from vlm_core.model_folder.weights import vector_names
from vlm_train.checkpoint.checkpoint import EXTRAS, OPTIMIZER, Contents, Saved
from vlm_train.config.train import Stage
from vlm_train.distributed.base import DDPStrategy
from vlm_train.engine import lora
from vlm_train.engine import optimizer as optim
from vlm_train.engine.activation_checkpointing import recomputing
from vlm_train.engine.ema import Average
from vlm_train.engine.train_step import Outcome
from vlm_train.loss import SummedLoss


class Learner:
    """One stage's hold on the model: from the constructor until `finish`; it learns from `start` on."""

    module: nn.Module
    optimizer: Any

    def __init__(self, model: VLM, stage: Stage, seed: int) -> None:
        self.model, self.stage = model, stage
        self.adapters = lora.inject(model, stage.lora, stage.name, seed) if stage.lora else {}
        for parameter in self.adapters.values():
            parameter.data = parameter.data.float()
        optim.freeze(model, stage, self.adapters.values())
        self.groups = optim.parameter_groups(model, stage)
        self.average: Average | None = None
        self._while_learning = ExitStack()

    def recall(self, saved: Saved) -> None:
        """Adapters and average as `saved` has them; the parts' own weights are there already."""
        for name, parameter in self.adapters.items():
            parameter.data.copy_(saved.extras.tensor(f"lora|{name}"))
        if self.stage.ema:
            self.average = Average(optim.trained(self.model, self.stage), self.stage.ema.decay)
            self.average.recall(saved.extras)

    def start(
        self,
        strategy: DDPStrategy,
        saved: Saved | None = None,
        *,
        recompute: bool = False,
        encoded: bool = False,
    ) -> None:
        """Lay the model on the processes and make what learns, or go on exactly from `saved`.

        `encoded` says that batches bring features of images, not pixels.
        """
        if recompute:
            self._while_learning.enter_context(recomputing(self.model))
        several = strategy.accelerator.num_processes > 1
        self.strategy = strategy
        self.module = strategy.wrap(SummedLoss(self.model, always_sees=several, encoded=encoded))
        now = dict(self.model.named_parameters())  # sharding puts others in their place
        for group in self.groups:
            group.parameters.update({name: now[name] for name in group.parameters})
        self.adapters = {name: now[name] for name in self.adapters}
        self.optimizer = optim.optimizer(self.groups, self.stage.optimizer)
        if self.stage.ema:
            self.average = Average(optim.trained(self.model, self.stage), self.stage.ema.decay)
        if saved:
            strategy.load_optimizer(self.model, self.optimizer, saved.optimizer)
            if self.average:
                self.average.recall(saved.extras)

    def rest(self) -> None:
        """Nothing learns any more."""
        self._while_learning.close()

    @contextmanager
    def proving(self) -> Iterator[None]:
        """A loss sent backward in here must reach every adapter, or a `UserError` names those it doesn't."""
        with lora.proving(self.model, self.stage.name):
            yield

    def stepped(self, outcome: Outcome) -> None:
        """The optimizer has stepped, or has not."""
        if self.average and outcome.changed:
            self.average.update()

    def contents(self, parts: Sequence[str]) -> Contents:
        """What a checkpoint needs of this process: its shards, and the rest if it is the first."""
        extras: dict[str, Tensor] = {f"lora|{name}": p for name, p in self.adapters.items()}
        if self.average:
            extras |= {f"ema|{name}": held for name, held in self.average.state().items()}
        found = {part: _weights(getattr(self.model, part)) for part in parts}
        found |= {EXTRAS: extras} if extras else {}
        written = {stem: self.strategy.local_shards(tensors) for stem, tensors in found.items()}
        return written | {OPTIMIZER: self.strategy.optimizer_shards(self.model, self.optimizer)}

    @contextmanager
    def averaged(self) -> Iterator[VLM]:
        """The model with the average in the place of its weights, for a while."""
        assert self.average
        with self.average.standing_in():
            yield self.model

    def finish(self) -> None:
        """Leave a plain model: the average if it is to be the result, adapters merged, all in evaluation mode."""
        if self.average and self.stage.ema and self.stage.ema.use == "result":
            self.average.become()
        if self.adapters:
            lora.merge(self.model)
        self.model.eval()


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; tied ones once."""
    found = module.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(found.items())}
    return {name: tensor for name, tensor in found.items() if first[id(tensor)] == name}


def lower(model: VLM, parts: Sequence[str]) -> None:
    """Hold what stands still in these parts in bf16, as autocast computes with it; what must stay fp32 stays it."""
    for part in parts:
        module: nn.Module = getattr(model, part)
        vectors = vector_names(module)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad and name not in vectors:
                parameter.data = parameter.data.to(torch.bfloat16)


def rehearse(model: VLM, stage: Stage) -> None:
    """Raise now what this stage would raise of its patterns when its turn comes; the model stays as it is."""
    adapters = lora.inject(model, stage.lora, stage.name, 0) if stage.lora else {}
    optim.freeze(model, stage, adapters.values())
    optim.optimizer(optim.parameter_groups(model, stage), stage.optimizer)
    if adapters:
        lora.take_out(model)
    model.requires_grad_(True).eval()


def table(groups: list[optim.ParameterGroup]) -> str:
    """The groups as text: label, tensors, parameters, rate, decay."""
    rows = [("trains", "tensors", "parameters", "lr", "weight decay")]
    for g in groups:
        count = sum(math.prod(p.shape) for p in g.parameters.values())
        decay = f"{g.weight_decay:g}" if g.decays else "exempt"
        rows.append((g.label, str(len(g.parameters)), f"{count:,}", f"{g.lr:g}", decay))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        " "
        + "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
