"""Everything that `vlm-assemble --check --gpus N` tells, as data."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_core.diagnose.costs.component_costs import ComponentCosts
from vlm_core.diagnose.costs.gpus import MFU
from vlm_core.diagnose.costs.stages import StageFacts, stages_of
from vlm_core.diagnose.costs.trace import Cost
from vlm_core.diagnose.costs.training_memory import STRATEGIES, Memory, Sizes, memory
from vlm_core.errors import UserError, choices
from vlm_core.model import VLM
from vlm_core.spec.spec import Spec

TEXT_TOKENS = 256


@dataclass(frozen=True)
class Assumptions:
    """What the user asks: how many GPUs, and what the spec can't tell.

    `text` positions of a sample besides its image; `samples` by stage; `mfu` the share of the peak reached.
    """

    gpus: int = 1
    text: int = TEXT_TOKENS
    samples: dict[str, int] | None = None
    mfu: float = MFU


@dataclass(frozen=True)
class StageEstimate:
    """A stage's cost: by part for `micro` samples of `length` positions; memory by strategy, also for the longest."""

    facts: StageFacts
    micro: int
    length: int
    costs: dict[str, Cost]
    memory: dict[str, Memory]
    at_longest: dict[str, Memory]
    samples: int | None

    @property
    def flops(self) -> float:
        """Of one sample, forward and backward."""
        return sum(self.of_part(part) for part in self.costs)

    def of_part(self, part: str) -> float:
        """A part's share of them."""
        return self.costs[part].training / self.micro


@dataclass(frozen=True)
class CostEstimate:
    """`forward` is what one sample costs at inference, by part; `features` how many numbers an image's have."""

    question: Assumptions
    length: int
    forward: dict[str, Cost]
    stages: list[StageEstimate]
    features: int


def estimate_costs(spec: Spec, model: VLM, question: Assumptions) -> CostEstimate:
    """Work everything out on `model`, which was built on the meta device and is used up by this."""
    stages = stages_of(spec)
    known = [facts.name for facts in stages]
    for name in question.samples or {}:
        if name not in known:
            raise UserError(f"--samples {name}: the spec has no such stage{choices(name, known)}")
    for facts in stages:
        if facts.batch_size % question.gpus:
            raise UserError(
                f"stage {facts.name}: batch_size {facts.batch_size} is not divisible by {question.gpus} GPUs"
            )
    sizes = [Sizes.of(model, facts.trainable) for facts in stages]
    costs = ComponentCosts(model)
    length = costs.tokens + question.text
    forward = costs.of_stage((), 1, length)
    told = [_stage(facts, size, costs, question) for facts, size in zip(stages, sizes, strict=True)]
    return CostEstimate(question, length, forward, told, costs.features)


def _stage(facts: StageFacts, sizes: Sizes, costs: ComponentCosts, question: Assumptions) -> StageEstimate:
    length = min(facts.max_length, costs.tokens + question.text)
    micro, bf16 = facts.micro(question.gpus), facts.precision == "bf16"
    usual = costs.of_stage(facts.trainable, micro, length, bf16=bf16)
    longest = costs.of_stage(facts.trainable, micro, facts.max_length, bf16=bf16, backward=False)

    def by_strategy(found: dict[str, Cost]) -> dict[str, Memory]:
        kept = sum(cost.activations for cost in found.values())
        copies = sum(found[part].weight_copies for part in facts.trainable)
        return {
            name: memory(name, sizes, question.gpus, bf16=bf16, activations=kept, copies=copies)
            for name in (STRATEGIES if question.gpus > 1 else STRATEGIES[:1])
        }

    samples = (question.samples or {}).get(facts.name) or facts.samples()
    return StageEstimate(facts, micro, length, usual, by_strategy(usual), by_strategy(longest), samples)
