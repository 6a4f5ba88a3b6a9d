"""The cost estimate of `vlm-assemble --check --gpus N`: FLOPs, memory and samples of each stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlm_core.diagnose.costs.component_costs import ComponentCosts
from vlm_core.diagnose.costs.gpus import GPU, hours
from vlm_core.diagnose.costs.measured_mfu import Utilization, utilization
from vlm_core.diagnose.costs.scan_backend import DeviceType, scan_backend
from vlm_core.diagnose.costs.stages import StageFacts, stages_of
from vlm_core.diagnose.costs.trace import Cost
from vlm_core.diagnose.costs.training_memory import STRATEGIES, Memory, Sizes, auto_strategy, memory
from vlm_core.errors import UserError, choices
from vlm_core.model import VLM
from vlm_core.spec.spec import Spec

TEXT_TOKENS = 256


@dataclass(frozen=True)
class Assumptions:
    """Number of GPUs, and what the spec doesn't contain.

    `text` is the number of text tokens per sample, `samples` the number of samples by stage, `mfu` the model FLOPs
    utilization, None for the measured one. `device`: the type of device, whose scan backend determines activations.
    """

    gpus: int = 1
    text: int = TEXT_TOKENS
    samples: dict[str, int] | None = None
    mfu: float | None = None
    device: DeviceType = "cuda"


@dataclass(frozen=True)
class StageEstimate:
    """Costs of a stage: `costs` by part for `micro` samples of `length` positions, `memory` by strategy.

    `micro` is 1 for `micro_batch_size: auto`, whose size depends on the GPU. `at_longest` is the memory with samples of
    `max_length` positions. `samples` is None if the data are not here. `copies`: bytes of trained weights in bf16.
    """

    facts: StageFacts
    micro: int
    length: int
    costs: dict[str, Cost]
    memory: dict[str, Memory]
    at_longest: dict[str, Memory]
    samples: int | None
    gpus: int
    copies: int = 0

    @property
    def flops(self) -> float:
        """FLOPs of one sample, forward and backward."""
        return sum(self.of_part(part) for part in self.costs)

    def of_part(self, part: str) -> float:
        """FLOPs of one sample in one part."""
        return self.costs[part].training / self.micro

    def micro_on(self, gpu: GPU, strategy: str) -> int | None:
        """Samples of a micro-batch on a GPU; None if `auto` finds that not even one of `max_length` positions fits."""
        if not self.facts.auto:
            return self.micro
        share = self.facts.batch_size // self.gpus
        fitting = [n for n in range(1, share + 1) if share % n == 0 and self.fits(gpu, strategy, n)]
        return max(fitting, default=None)

    def fits(self, gpu: GPU, strategy: str, samples: int) -> bool:
        """Whether a GPU has memory for `samples` samples of `max_length` positions."""
        one = self.at_longest[strategy]
        return gpu.holds(one.of(samples).total if self.facts.auto else one.total)


@dataclass(frozen=True)
class CostEstimate:
    """`forward` is the cost of one sample at inference, by part; `features` the values in one image's features.

    With views, of an image with the most. `backend`: the scan backend whose kept tensors are counted.
    """

    assumptions: Assumptions
    length: int
    forward: dict[str, Cost]
    stages: list[StageEstimate]
    features: int
    backend: str = "torch"

    def strategy_on(self, gpu: GPU) -> str:
        """The strategy of all stages on GPUs of this type, one of `STRATEGIES`."""
        return self.strategy_on_memory(gpu.memory * 1e9)

    def strategy_on_memory(self, memory: float) -> str:
        """The strategy of all stages on GPUs with `memory` bytes."""
        wanted = self.stages[0].facts.strategy
        if self.assumptions.gpus == 1:
            return STRATEGIES[0]
        if wanted != "auto":
            return wanted
        return auto_strategy(max(stage.memory["DDP"].states for stage in self.stages), memory)

    def micro_on(self, stage: StageEstimate, gpu: GPU) -> int | None:
        """Samples of a micro-batch of `stage` on a GPU of this type; None if `auto` finds that none fits."""
        return stage.micro_on(gpu, self.strategy_on(gpu))

    def utilization_on(self, stage: StageEstimate, gpu: GPU) -> Utilization | None:
        """The MFU of `stage` on a GPU of this type by measurements; None where no sample fits."""
        if (micro := self.micro_on(stage, gpu)) is None:
            return None
        return utilization(gpu, llm="llm" in stage.facts.trainable, tokens=micro * stage.length)

    def hours_on(self, stage: StageEstimate, gpu: GPU, samples: int) -> float | None:
        """Hours for `samples` samples of `stage` on GPUs of this type; None where no sample fits."""
        measured = self.utilization_on(stage, gpu)
        if measured is None:
            return None
        mfu = self.assumptions.mfu or measured.mfu
        return hours(samples * stage.flops, gpu, self.assumptions.gpus, mfu)


def estimate_costs(
    spec: Spec, model: VLM, assumptions: Assumptions, *, memory_only: bool = False
) -> CostEstimate:
    """Estimate the costs of a spec with its `model` on the meta device, which can't be used afterwards.

    `memory_only`: of samples of `max_length` positions alone, which takes a third of the time. `forward` is empty then,
    backward passes have no FLOPs, and samples, for which data would be read, are not counted.
    Raises `UserError` for an unknown stage in `samples` and for a batch size that the GPUs don't divide.
    """
    stages = stages_of(spec)
    check_stage_names(assumptions.samples or {}, stages)
    for facts in stages:
        if facts.batch_size % assumptions.gpus:
            raise UserError(
                f"stage {facts.name}: batch_size {facts.batch_size} is not divisible by {assumptions.gpus} GPUs"
            )
    sizes = [Sizes.of(model, facts.trainable) for facts in stages]
    backend = scan_backend(assumptions.device)
    costs = ComponentCosts(model, backend, checkpointing=any(facts.checkpointing for facts in stages))
    length = costs.tokens + assumptions.text
    forward = {} if memory_only else costs.of_stage((), 1, length)
    estimates = [
        _stage(facts, size, costs, assumptions, memory_only)
        for facts, size in zip(stages, sizes, strict=True)
    ]
    return CostEstimate(assumptions, length, forward, estimates, costs.features, backend)


def check_stage_names(samples: Iterable[str], stages: Iterable[StageFacts]) -> None:
    """Raise `UserError` for a name in `samples` that no stage has."""
    known = [facts.name for facts in stages]
    for name in samples:
        if name not in known:
            raise UserError(f"--samples {name}: the spec has no such stage{choices(name, known)}")


def _stage(
    facts: StageFacts, sizes: Sizes, costs: ComponentCosts, assumptions: Assumptions, memory_only: bool
) -> StageEstimate:
    length, gpus = min(facts.max_length, costs.tokens + assumptions.text), assumptions.gpus
    micro, bf16 = facts.micro(gpus), facts.precision == "bf16"
    longest = costs.of_stage(
        facts.trainable, micro, facts.max_length, bf16=bf16, backward=False, most_views=True
    )
    usual = longest
    if not memory_only:
        usual = costs.of_stage(facts.trainable, micro, length, bf16=bf16)

    accumulates = facts.auto or micro < max(1, facts.batch_size // gpus)
    copies = 0
    if bf16:  # over several micro-batches all casts are kept, in one only those that autograd keeps
        saved = sum(usual[part].weight_copies for part in facts.trainable)
        copies = 2 * sizes.trained if accumulates else saved

    def by_strategy(part_costs: dict[str, Cost]) -> dict[str, Memory]:
        activations = sum(cost.activations for cost in part_costs.values())
        return {
            name: memory(
                name,
                sizes,
                gpus,
                bf16=bf16,
                activations=activations,
                copies=copies,
                accumulates=accumulates,
            )
            for name in (STRATEGIES if gpus > 1 else STRATEGIES[:1])
        }

    given = (assumptions.samples or {}).get(facts.name)
    samples = given if given or memory_only else facts.samples()
    return StageEstimate(
        facts, micro, length, usual, by_strategy(usual), by_strategy(longest), samples, gpus, copies
    )
