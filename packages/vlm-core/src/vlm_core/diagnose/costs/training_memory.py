"""Bytes that training keeps on each GPU, by what they are for, under the usual ways of sharing the work.

AdamW keeps two moments. Gradients and optimizer exist for trained parts only. The formulas stand in docs/costs.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.weights import vector_names
from vlm_core.numerics.layers import transformer_layers

STRATEGIES = ("DDP", "FSDP2", "FSDP2-gathered")
UNIT = 2**24
"""Numbers from which on vlm-train has FSDP2 gather layers apart from the next; smaller neighbours are joined."""


@dataclass(frozen=True)
class Sizes:
    """Parameters of the trained and the frozen parts, their bytes as loaded, and parameters of the largest block.

    `lowered_bytes` are those of the frozen parts with their matrices in bf16. A block is what sharding gathers at once.
    """

    trained: int
    frozen: int
    trained_bytes: int
    frozen_bytes: int
    lowered_bytes: int
    block: int

    @classmethod
    def of(cls, model: VLM, trainable: Iterable[str]) -> Sizes:
        trainable = set(trainable)
        counts, sizes, lowered = {True: 0, False: 0}, {True: 0, False: 0}, 0
        for part in PARTS:
            vectors = vector_names(getattr(model, part))
            for name, parameter in getattr(model, part).named_parameters():
                counts[part in trainable] += parameter.numel()
                sizes[part in trainable] += parameter.nbytes
                if part not in trainable:
                    lowered += parameter.nbytes if name in vectors else 2 * parameter.numel()
        block = max(largest_block(getattr(model, part)) for part in PARTS)
        return cls(counts[True], counts[False], sizes[True], sizes[False], lowered, block)


def largest_block(module: nn.Module) -> int:
    """Parameters of the largest unit that FSDP2 gathers: a layer, or what stands outside of all."""
    items = [sum(p.numel() for p in block.parameters()) for block in transformer_layers(module)]
    inside = {id(p) for block in transformer_layers(module) for p in block.parameters()}
    rest = sum(p.numel() for p in module.parameters() if id(p) not in inside)
    return max([*items, rest])


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU; `weights` includes copies in another precision and gathered blocks."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def memory(strategy: str, sizes: Sizes, gpus: int, *, bf16: bool, activations: int, copies: int) -> Memory:
    """Of one GPU. `copies` are the bytes of trained weights that autocast keeps in bf16, for DDP alone.

    DDP: the weights as they are, frozen matrices in the precision of computing; with several GPUs the gradients twice,
    for its buckets. FSDP2: everything divided, and two gathered units, blocks of at least `UNIT` numbers together, in
    the precision of computing. FSDP2-gathered (`reshard_after_forward: false`): all weights gathered, not two units.
    """
    item, count = (2 if bf16 else 4), sizes.trained + sizes.frozen
    held = sizes.trained_bytes + (sizes.lowered_bytes if bf16 else sizes.frozen_bytes)
    unit = sizes.block if sizes.block >= UNIT else min(UNIT + sizes.block, count)
    if strategy == "DDP":
        weights = held + (copies if bf16 else 0)
        buckets = 1 if gpus == 1 else 2
        return Memory(weights, buckets * sizes.trained_bytes, 2 * sizes.trained_bytes, activations)
    assert strategy in ("FSDP2", "FSDP2-gathered"), strategy
    weights = held / gpus + (2 * unit if strategy == "FSDP2" else count) * item
    return Memory(weights, sizes.trained_bytes / gpus, 2 * sizes.trained_bytes / gpus, activations)
