"""`micro_batch_size: auto` of a stage: the recorded number of the run, or the largest that fits into every device."""

from __future__ import annotations

import time
from dataclasses import replace

from vlm_core.errors import UserError
from vlm_core.units import size
from vlm_train.checkpoint import micro_batch_record
from vlm_train.checkpoint.micro_batch_record import MicroBatchSize
from vlm_train.checkpoint.run_dir import RunDir
from vlm_train.config.train import TrainConfig
from vlm_train.distributed import process_group, watchdog
from vlm_train.engine.stage_state import StageState
from vlm_train.micro_batch.device_memory import CpuMemory, DeviceMemory, device_memory
from vlm_train.micro_batch.search import Found, divisors, search
from vlm_train.micro_batch.trial_steps import TrialSteps
from vlm_train.monitoring.run_messages import log_on_main


def micro_batch_size(state: StageState, train: TrainConfig, run: RunDir, *, encoded: bool) -> int:
    """The micro-batch size of a stage whose optimizer exists, a divisor of a process's share of its batch.

    It is the same on all processes, which must call this together. With `encoded`, batches bring features instead of
    pixels. Raises `UserError` if one sample does not fit, or if the recorded number does not fit into another device.
    """
    accelerator, name = state.strategy.accelerator, state.stage.name
    memory = device_memory(accelerator.device, state.model)
    now = MicroBatchSize(
        1,
        accelerator.num_processes,
        state.strategy.name,
        train.activation_checkpointing,
        memory.name,
    )
    recorded, now = process_group.call_on_main(
        accelerator, lambda: (micro_batch_record.read(run).get(name), now)
    )
    if recorded and replace(recorded, micro_batch_size=1) == now:
        log_on_main(accelerator, f"stage {name}: micro_batch_size {recorded.micro_batch_size}, as recorded")
        return recorded.micro_batch_size
    watchdog.beat(f"measuring the memory of stage {name}", patient=True)
    began = time.monotonic()
    number, how = largest(state, train, memory, encoded=encoded)
    if recorded:
        number = _again(recorded, replace(now, micro_batch_size=number), state)
    seconds = time.monotonic() - began
    log_on_main(accelerator, f"stage {name}: micro_batch_size: auto is {number}: {how} ({seconds:.1f} s)")
    chosen = replace(now, micro_batch_size=number)
    process_group.call_on_main(accelerator, lambda: micro_batch_record.write(run, name, chosen))
    return number


def largest(state: StageState, train: TrainConfig, memory: DeviceMemory, *, encoded: bool) -> tuple[int, str]:
    """The largest size that fits, and what shows it; raises `UserError` if one sample does not fit."""
    share = state.stage.batch_size // state.strategy.accelerator.num_processes
    trial_steps = TrialSteps(state, train, memory, encoded=encoded)
    limit = trial_steps.limit(share)
    if isinstance(memory, CpuMemory):
        return _by_activations(trial_steps, limit, share)
    found = search(divisors(share), limit, trial_steps)
    if found.size is None:
        raise _too_large(found, limit, state, train)
    trials = ", ".join(f"{trial.size}: {size(trial.peak)}" for trial in sorted(found.trials))
    return found.size, f"steps took {trials}, a process may take {size(limit)} besides its moments"


def _by_activations(trial_steps: TrialSteps, limit: int, share: int) -> tuple[int, str]:
    """On a CPU: as many samples as keep at most `limit` bytes for the backward pass by one trial, at least one."""
    trial = trial_steps(1)
    assert trial is not None
    sample = trial.peak // 2  # of two micro-batches
    number = max((n for n in divisors(share) if n * sample <= limit), default=1)
    return number, f"on a CPU, {size(sample)} of activations a sample, {size(max(0, limit))} for all"


def _again(recorded: MicroBatchSize, now: MicroBatchSize, state: StageState) -> int:
    """The size for a run that has recorded one under other conditions; `now` has the largest size that fits."""
    name, before = state.stage.name, recorded.micro_batch_size
    if not recorded.same_step(now):
        log_on_main(
            state.strategy.accelerator,
            f"stage {name}: micro_batch_size {before} was chosen for {_conditions(recorded)}, and this run has "
            f"{_conditions(now)}: auto has measured again, and sums may round differently",
        )
        return now.micro_batch_size
    if before > now.micro_batch_size:
        raise UserError(
            f"stage {name}: micro_batch_size: auto chose {before} on {recorded.device}, and the memory of "
            f"{now.device} is enough for {now.micro_batch_size}: set micro_batch_size: {now.micro_batch_size} to go on "
            "with sums that may round differently, or resume on the former device"
        )
    return before


def _conditions(chosen: MicroBatchSize) -> str:
    several = f"{chosen.processes} process{'es' * (chosen.processes > 1)}"
    recomputed = " and activation_checkpointing" if chosen.activation_checkpointing else ""
    return f"{several}, {chosen.strategy}{recomputed}"


def _too_large(found: Found, limit: int, state: StageState, train: TrainConfig) -> UserError:
    """The error for a stage of which one sample does not fit, with what would take less memory."""
    taken = f"takes {size(found.trials[0].peak)}" if found.trials else "runs out of memory"
    advice = [] if train.activation_checkpointing else ["activation_checkpointing: true"]
    advice += [] if state.strategy.sharded else ["strategy: fsdp2 with several GPUs"]
    advice += [f"a max_length below {train.max_length}"]
    advice += [] if state.strategy.sharded or state.stage.optimizer != "adamw" else ["optimizer: adamw-8bit"]
    return UserError(
        f"stage {state.stage.name}: micro_batch_size: auto: a step of one sample of {train.max_length} positions "
        f"{taken}, and this process may take {size(max(0, limit))} besides the optimizer's moments; "
        f"set {', '.join(advice)}"
    )
