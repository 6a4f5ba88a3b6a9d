"""Memory of training per GPU: weights, gradients, optimizer state and activations, by parallelism strategy.

AdamW keeps two moments. Gradients and optimizer state exist for trained parts only. docs/costs.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from vlm_core.model import PARTS, VLM
from vlm_core.model_folder.weights import vector_names
from vlm_core.numerics.layers import transformer_layers

STRATEGIES = ("DDP", "FSDP2", "FSDP2-gathered")
DDP_SHARE = 0.5
"""`strategy: auto` is ddp where weights, gradients and moments take at most this share of a GPU, else fsdp2."""
UNIT = 2**24
"""Parameters of an FSDP2 unit: vlm-train groups consecutive layers until a unit has this many."""


@dataclass(frozen=True)
class Sizes:
    """Parameters and bytes of trained and frozen parts, and parameters of the largest block.

    `lowered_bytes` are the bytes of the frozen parts with their matrices in bf16. FSDP2 gathers a block at once.
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
    """Parameters of the largest unit that FSDP2 gathers: a layer, or all parameters outside of layers."""
    items = [sum(p.numel() for p in block.parameters()) for block in transformer_layers(module)]
    inside = {id(p) for block in transformer_layers(module) for p in block.parameters()}
    outside = sum(p.numel() for p in module.parameters() if id(p) not in inside)
    return max([*items, outside])


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU; `weights` includes bf16 copies and gathered blocks, `gradients` the `buckets` of DDP.

    `accumulates`: a step has several micro-batches, so that gradients and activations exist at the same time.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    buckets: float = 0.0
    accumulates: bool = True

    @property
    def total(self) -> float:
        """At the peak of a step. With one micro-batch, gradients take the place of activations that are used up."""
        if self.accumulates:
            return self.states + self.activations
        own = self.gradients - self.buckets
        return self.states - own + max(own, self.activations)

    @property
    def states(self) -> float:
        """Bytes that do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    def of(self, samples: int) -> Memory:
        """The memory with `samples` times the activations."""
        return replace(self, activations=samples * self.activations)


def auto_strategy(ddp_states: float, gpu_memory: float) -> str:
    """The strategy of `strategy: auto` for GPUs of `gpu_memory` bytes.

    `ddp_states` are bytes of weights, gradients and optimizer under DDP, of the stage that needs most.
    """
    return "DDP" if ddp_states <= DDP_SHARE * gpu_memory else "FSDP2"


def memory(
    strategy: str,
    sizes: Sizes,
    gpus: int,
    *,
    bf16: bool,
    activations: int,
    copies: int,
    accumulates: bool = True,
) -> Memory:
    """Memory of one GPU. `copies` are the bytes of trained weights that autocast caches in bf16, for DDP only.

    DDP: all weights, frozen matrices in the compute dtype; with several GPUs also gradient buckets. FSDP2: everything
    divided by the number of GPUs, and two gathered units of at least `UNIT` parameters in the compute dtype.
    FSDP2-gathered (`reshard_after_forward: false`): all weights gathered instead of two units.
    """
    item, count = (2 if bf16 else 4), sizes.trained + sizes.frozen
    stored = sizes.trained_bytes + (sizes.lowered_bytes if bf16 else sizes.frozen_bytes)
    unit = sizes.block if sizes.block >= UNIT else min(UNIT + sizes.block, count)
    if strategy == "DDP":
        weights = stored + (copies if bf16 else 0)
        buckets = 0 if gpus == 1 else sizes.trained_bytes
        gradients, moments = sizes.trained_bytes + buckets, 2 * sizes.trained_bytes
        return Memory(weights, gradients, moments, activations, buckets, accumulates)
    assert strategy in ("FSDP2", "FSDP2-gathered"), strategy
    weights = stored / gpus + (2 * unit if strategy == "FSDP2" else count) * item
    gradients, moments = sizes.trained_bytes / gpus, 2 * sizes.trained_bytes / gpus
    return Memory(weights, gradients, moments, activations, accumulates=accumulates)
