"""Lines that a run prints about where it resumes and what it left out."""

from __future__ import annotations

from collections import Counter

from vlm_train.checkpoint.checkpoint import Position
from vlm_train.checkpoint.run_dir import LEFT_OUT, RunDir


def resumed(position: Position, stage: str, world: int) -> list[str]:
    """Lines for a run that resumes `stage` from a checkpoint, on `world` processes."""
    lines = [f"resuming {stage} at step {position.step}"]
    if position.world != world:
        lines.append(
            f"this checkpoint is of {position.world} processes, these are {world}: the order of the rows is "
            "the same, sums may round differently"
        )
    return lines


def left_out(folder: RunDir, position: Position) -> list[str]:
    """Lines for the rows and steps that the run left out, if there are any."""
    lines = []
    if counts := Counter(record["reason"] for record in folder.records(LEFT_OUT)):
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        lines.append(f"left out: {reasons} rows; see {folder.path / LEFT_OUT}")
    if position.skipped:
        lines.append(f"{position.skipped} steps changed nothing, for their loss or gradient was not finite")
    return lines
