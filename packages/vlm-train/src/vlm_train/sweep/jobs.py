"""The runs of a sweep: each row with each seed, every run in a process and a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlm_core.diagnose.model_summary import summarize
from vlm_core.errors import UserError
from vlm_core.io.files import open_regular
from vlm_core.markup.printable import printable
from vlm_core.plugins.local_code import OPTION
from vlm_core.runtime.system_faults import killed
from vlm_core.spec.validate import validate
from vlm_core.units import duration
from vlm_train.checkpoint.prepare_run_dir import recorded_inputs, refuse_other_run
from vlm_train.checkpoint.resume import resolved
from vlm_train.checkpoint.run_dir import SPEC, RunDir
from vlm_train.checkpoint.run_inputs import Inputs, Source, data_sources, file_sources
from vlm_train.config.train import TrainConfig
from vlm_train.evaluation.stage_evaluations import asked, last_name
from vlm_train.sweep.grid import Grid
from vlm_train.sweep.process_pool import Pool
from vlm_train.sweep.rows import Row

_LAST_BYTES = 100_000
"""Bytes of a log, from its end, in which its last line is searched."""
_LESS_MEMORY = "use fewer --jobs, or fewer train.num_workers"


@dataclass(frozen=True)
class Job:
    """One row with one seed; `arguments` are those of `vlm-train`."""

    row: Row
    seed: int
    folder: RunDir
    arguments: tuple[str, ...]
    log: Path
    last_stage: str
    asked: Mapping[str, Any] | None = None
    """Identity that the last evaluation of an existing run must have; None for a new run, or without held_out_qa."""

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether the run has finished and has evaluated the questions that the spec names now."""
        if not self.folder.finished():
            return False
        final = self.folder.evaluation(f"after {self.last_stage}")
        return self.asked is None or (final is not None and final.get("of") == self.asked)

    @property
    def state(self) -> str:
        """`finished`, `begun` or `new`."""
        return "finished" if self.done else "begun" if self.folder.path.exists() else "new"


@dataclass(frozen=True)
class Failure:
    """A run that failed: its exit code (negative: the signal), and the last line of its log."""

    job: Job
    code: int

    def __str__(self) -> str:
        how = f"exit code {self.code}" if self.code >= 0 else str(killed("the run", -self.code, _LESS_MEMORY))
        return f"{self.job.name}: {how}; {self.job.log}: {self.last_line()}"

    def last_line(self) -> str:
        try:
            with open_regular(self.job.log) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except UserError as error:
            return f"({error})"
        return next((printable(line.strip()) for line in reversed(lines) if line.strip()), "(empty)")


def jobs(grid: Grid) -> list[Job]:
    """Every run of the grid: all rows with the first seed, then all with the second.

    Raises `UserError` if a folder holds a run of another spec than its row's, or if the spec has no evaluation.
    """
    result, faults, cache = [], [], SourceCache({}, {})
    for seed in grid.seeds:
        for row in grid.rows:
            try:
                result.append(_job(grid, row, seed, cache))
            except UserError as error:
                faults += error.lines
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return result


class SourceCache(NamedTuple):
    """Digests that several runs share: of datasets by config, of files by path."""

    data: dict[str, Source]
    files: dict[Path, str]


def _job(grid: Grid, row: Row, seed: int, cache: SourceCache) -> Job:
    spec, document = grid.spec(row, seed)
    base = grid.base_of(row)
    if spec.train is None:
        raise UserError(f"{base}: has no train section, which a sweep needs")
    train = validate(TrainConfig, document, ("train",))
    if train.held_out_qa is None and train.benchmarks is None:
        raise UserError(
            f"{base}: has no train.benchmarks and no train.held_out_qa; a sweep needs one of them for its table"
        )
    folder = RunDir(grid.folder(row, seed))
    settings = [part for text in grid.assignments(row, seed) for part in ("--set", text)]
    arguments = ("run", str(base), *settings, *((OPTION,) if grid.trust_remote_code else ()))
    log = folder.path.with_suffix(".log")
    job = Job(row, seed, folder, arguments, log, train.stages[-1].name)
    if not (folder.path / SPEC).exists():
        return job
    now = Inputs(data_sources(train, {}, cache.data), {}, file_sources(spec, cache.files))
    refuse_other_run(folder, resolved(spec, train), now)
    if train.held_out_qa is None:
        return job
    if old := recorded_inputs(folder):
        now = replace(now, run=old.run)
    return replace(job, asked=asked(train, now, last_name(train), now.count("train.held_out_qa.")))


def run(
    todo: Sequence[Job], pool: Pool, say: Callable[[str], None], ended_one: Callable[[], None] = lambda: None
) -> list[Failure]:
    """Run all jobs in the pool; when one ends, report it through `say` and call `ended_one`.

    Returns those that failed.
    """
    failures = []
    by_log = {job.log: job for job in todo}
    started = [(job.arguments, job.log) for job in todo]
    with closing(pool.run(started)) as results:
        for ended, (log, code, seconds) in enumerate(results, 1):
            failure = Failure(by_log[log], code)
            outcome = f"failed: {failure}" if code else by_log[log].name
            say(f"[{ended}/{len(todo)}] {outcome}  ({duration(seconds)})")
            failures += [failure] if code else []
            ended_one()
    return failures


def sizes(grid: Grid) -> dict[str, dict[str, int]]:
    """Numbers of parameters by row and part; raises `UserError` if the parts of a row don't fit together."""

    counts = {}
    for row in grid.rows:
        try:
            sums = summarize(grid.spec(row, grid.seeds[0])[0])
        except UserError as error:
            raise UserError(f"{grid.file}: {row.name}: {error.lines[0]}", *error.lines[1:]) from None
        counts[row.name] = {part.part: part.parameters for part in sums.rows}
    return counts
