"""Training state of a stage besides the model's weights: adapters, parameter groups, optimizer, average."""

from __future__ import annotations

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
from vlm_train.engine.step_graphs.micro_batch_graphs import MicroBatchGraphs, why_not
from vlm_train.engine.train_step import Outcome
from vlm_train.loss import SummedLoss


class StageState:
    """Training state of one stage, from the constructor until `finish`; `start` makes the optimizer."""

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
        self.graphs: MicroBatchGraphs | None = None
        self._while_training = ExitStack()

    def load(self, saved: Saved) -> None:
        """Load adapters and average from a checkpoint; the parts' own weights are loaded already."""
        for name, parameter in self.adapters.items():
            parameter.data.copy_(saved.extras.tensor(f"lora|{name}"))
        if self.stage.ema:
            self.average = Average(optim.trained(self.model, self.stage), self.stage.ema.decay)
            self.average.load(saved.extras)

    def start(
        self,
        strategy: DDPStrategy,
        saved: Saved | None = None,
        *,
        recompute: bool = False,
        encoded: bool = False,
        graphs: bool = False,
    ) -> None:
        """Wrap the model for its strategy and make the optimizer, with the state of `saved` if given.

        With `encoded`, batches bring image features instead of pixels. With `graphs`, micro-batches become CUDA graphs
        where they can.
        """
        if recompute:
            self._while_training.enter_context(recomputing(self.model))
        several = strategy.accelerator.num_processes > 1
        self.strategy = strategy
        self.module = strategy.wrap(SummedLoss(self.model, always_sees=several, encoded=encoded))
        params = dict(self.model.named_parameters())  # sharding has replaced the parameters
        for group in self.groups:
            group.parameters.update({name: params[name] for name in group.parameters})
        self.adapters = {name: params[name] for name in self.adapters}
        self.optimizer = optim.optimizer(self.groups, self.stage.optimizer)
        if self.stage.ema:
            self.average = Average(optim.trained(self.model, self.stage), self.stage.ema.decay)
        if graphs and not why_not(strategy, self.module):
            self.graphs = MicroBatchGraphs(strategy, self.module)
        if saved:
            strategy.load_optimizer(self.model, self.optimizer, saved.optimizer)
            if self.average:
                self.average.load(saved.extras)

    def close(self) -> None:
        """Undo what `start` changed in the model's layers."""
        self._while_training.close()
        self.graphs = None

    @contextmanager
    def check_lora_gradients(self) -> Iterator[None]:
        """A backward pass in this context must reach every adapter; a `UserError` names those that it does not."""
        with lora.check_lora_gradients(self.model, self.stage.name):
            yield

    def after_step(self, outcome: Outcome) -> None:
        """Update the average after a step of the optimizer."""
        if self.average and outcome.changed:
            self.average.update()

    def state_dict(self, parts: Sequence[str]) -> Contents:
        """The tensors of a checkpoint that this process writes, by file stem."""
        extras: dict[str, Tensor] = {f"lora|{name}": p for name, p in self.adapters.items()}
        if self.average:
            extras |= {f"ema|{name}": mean for name, mean in self.average.state().items()}
        tensors = {part: _weights(getattr(self.model, part)) for part in parts}
        tensors |= {EXTRAS: extras} if extras else {}
        shards = {stem: self.strategy.local_shards(named) for stem, named in tensors.items()}
        return shards | {OPTIMIZER: self.strategy.optimizer_shards(self.model, self.optimizer)}

    @contextmanager
    def averaged(self) -> Iterator[VLM]:
        """Context in which the model's trained weights are the average."""
        assert self.average
        with self.average.weights_averaged():
            yield self.model

    def finish(self) -> None:
        """Leave a plain model: the average if it is to be the result, adapters merged, all in evaluation mode."""
        if self.average and self.stage.ema and self.stage.ema.use == "result":
            self.average.copy_to_weights()
        if self.adapters:
            lora.merge(self.model)
        self.model.eval()


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; tied ones once."""
    tensors = module.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return {name: tensor for name, tensor in tensors.items() if first[id(tensor)] == name}


def cast_frozen_to_bf16(model: VLM, parts: Sequence[str]) -> None:
    """Cast frozen matrices of these parts to bf16, autocast's dtype; vectors and `keeps_fp32` parameters stay fp32."""
    for part in parts:
        module: nn.Module = getattr(model, part)
        vectors = vector_names(module)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad and name not in vectors:
                parameter.data = parameter.data.to(torch.bfloat16)


def validate_stage(model: VLM, stage: Stage) -> None:
    """Raise the errors of a stage's patterns before training; the model is unchanged afterwards."""
    adapters = lora.inject(model, stage.lora, stage.name, 0) if stage.lora else {}
    optim.freeze(model, stage, adapters.values())
    optim.optimizer(optim.parameter_groups(model, stage), stage.optimizer)
    if adapters:
        lora.take_out(model)
    model.requires_grad_(True).eval()
