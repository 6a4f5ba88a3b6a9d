"""The table of `--measure`: step time, rates, hours and peak memory of each stage as measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_core.cli.check_tables import samples_by_stage
from vlm_core.cli.output import say
from vlm_core.cli.tables import add, show, table
from vlm_core.units import size

if TYPE_CHECKING:
    from vlm_core.diagnose.costs.measured_steps import StepCosts
    from vlm_core.spec.spec import Spec


def measurement(spec: Spec, args: Any) -> Callable[[], None]:
    """What measures and prints; raises `UserError`, before any work, if the spec's steps can't be measured."""
    from vlm_core.diagnose.costs.estimate import check_stage_names
    from vlm_core.diagnose.costs.measured_steps import MeasureOptions, step_measurement
    from vlm_core.diagnose.costs.stages import stages_of

    samples, measure = samples_by_stage(args), step_measurement(spec)
    check_stage_names(samples, stages_of(spec))
    options = MeasureOptions(args.gpus or 1, args.text_tokens)
    return lambda: print_measured(measure(options), samples)


def print_measured(measured: Sequence[StepCosts], samples: Mapping[str, int] | None = None) -> None:
    """A row for each stage, and what the numbers do not include. `samples`: of stages whose data are elsewhere."""
    first = measured[0]
    several = f", scaled to {first.gpus} devices" if first.gpus > 1 else ""
    on_cpu = first.cpu_seconds is not None
    memory = ("peak", "growth") if on_cpu else ("peak", "reserved")
    times = ("s a step", "CPU s") if on_cpu else ("s a step",)
    utilization = ["MFU"] if any(costs.mfu is not None for costs in measured) else []
    columns = ["stage", "micro-batch", *times, "samples/s", "tokens/s", "hours", *memory, *utilization]
    lines = table(f"measured on {first.device}{several}", *columns)
    for costs in measured:
        seconds = [f"{costs.seconds:.3g}"]
        seconds += [f"{costs.cpu_seconds:.3g}"] if costs.cpu_seconds is not None else []
        beside = costs.growth if on_cpu else costs.reserved
        add(
            lines,
            costs.stage,
            f"{costs.micro_batch_size} × {-(-costs.samples // costs.micro_batch_size)}",
            *seconds,
            f"{costs.samples_per_second:.3g}",
            f"{costs.tokens_per_second:.0f}",
            _hours(costs, (samples or {}).get(costs.stage)),
            size(costs.peak_memory),
            "" if beside is None else size(beside),
            *["" if costs.mfu is None else f"{costs.mfu:.1%}"] * len(utilization),
        )
    show(lines)
    say("", *_notes(measured))


def _hours(costs: StepCosts, samples: int | None) -> str:
    steps = costs.steps if samples is None else -(-samples // (costs.gpus * costs.samples))
    return "?" if steps is None else f"{costs.hours(steps):.3g}"


def _notes(measured: Sequence[StepCosts]) -> list[str]:
    first = measured[0]
    timed = ", ".join(f"{costs.timed} of {costs.stage}" for costs in measured)
    lines = [f"means over timed steps ({timed}), random weights; evaluations and checkpoints are left out"]
    lines += [f"{costs.stage}: {costs.synthetic}" for costs in measured if costs.synthetic]
    if first.gpus > 1:
        lines.append("each device has its share of the batch; communication and sharding are left out")
    if first.cpu_seconds is not None:
        lines.append("peak: of this process up to the stage; growth: since before the first stage")
    if any(c.cpu_seconds is not None and c.cpu_seconds < 0.7 * c.seconds for c in measured):
        lines.append("the steps waited for other processes or the disk: an idle machine takes less time")
    return lines
