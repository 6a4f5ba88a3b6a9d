"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vlm_train.checkpoint.dtensor import local, shard_rows, sharded_like
from vlm_train.checkpoint.sharded_safetensors import ShardedTensorReader


class Average:
    """avg ← d·avg + (1−d)·weights after each step, in fp32, with d = min(decay, (1+n)/(10+n)) at update n.

    The smaller d of the first updates removes the untrained weights from the average. With sharded weights each rank
    averages its shard.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.updates = dict(parameters), decay, 0
        self.average = {name: local(p.detach()).float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(local(parameter.detach()).float(), 1 - decay)
        self.updates += 1

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: the average by parameter name, sharded as the weights are, and its number of updates."""
        average = {name: sharded_like(self.parameters[name], t) for name, t in self.average.items()}
        return {**average, "updates": torch.tensor(self.updates)}

    def load(self, saved: ShardedTensorReader) -> None:
        """Restore the average and its number of updates from a checkpoint."""
        self.updates = int(saved.tensor("ema|updates"))
        for name, mean in self.average.items():
            mean.copy_(saved.tensor(f"ema|{name}", shard_rows(self.parameters[name])))

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Overwrite the weights with the average."""
        for name, parameter in self.parameters.items():
            local(parameter.detach()).copy_(self.average[name])

    @contextmanager
    def weights_averaged(self) -> Iterator[None]:
        """Context in which the parameters are the average; on exit they are the trained weights again."""
        weights = {name: local(p.detach()).clone() for name, p in self.parameters.items()}
        self.copy_to_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    local(parameter.detach()).copy_(weights[name])
