"""Asks a model the questions of one benchmark, resumes a stopped run, and scores the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from vlm_bench.evaluate import evaluate
from vlm_bench.files.answers import read_answers
from vlm_bench.files.baseline_files import baselines_of
from vlm_bench.files.json_files import sha256
from vlm_bench.files.run_metadata import settings_of
from vlm_bench.report import report
from vlm_bench.run.answer_log import AnswerLog, Metadata, answer_line, digest_of
from vlm_bench.run.process_group import Ranks
from vlm_bench.run.tasks import AskedModel, Settings, Task
from vlm_core.benchmark import Question
from vlm_core.cli.progress import Progress
from vlm_core.errors import BadSample, UserError
from vlm_core.evaluation.questions import by_image
from vlm_core.io.digests import of_image, version_changes

Say = Callable[[str], None]


class Run:
    """One task of a model, in a folder; every process of `ranks` calls the same methods in the same order."""

    def __init__(
        self, task: Task, model: AskedModel, settings: Settings, out: Path, ranks: Ranks, say: Say
    ) -> None:
        self.task, self.model, self.ranks, self.say = task, model, ranks, say
        self.allow_partial = settings.allow_partial or settings.limit is not None
        length = settings.max_new_tokens or task.benchmark.max_new_tokens
        self.inference = model.inference(settings, length)
        self.log = AnswerLog(out, task.name, task.as_asked, task.baseline)
        self.metadata = self._metadata(settings, length)
        self.earlier = self.log.check(self.metadata)
        if self.earlier:
            self.log.refuse_other_images()

    def _metadata(self, settings: Settings, length: int) -> Metadata:
        """The run's metadata; those of `MUST_MATCH` must be equal for answers in one file."""
        task = self.task
        return {
            "benchmark": task.name,
            "protocol": task.benchmark.protocol,
            **self.model.metadata(settings),
            "files": {name: sha256(path) for name, path in task.benchmark.files.items()},
            "questions sha256": digest_of(task.benchmark.questions.values()),
            "decoding": {"max_new_tokens": length, "temperature": 0.0},
            "processes": self.ranks.count,
            "scored_by": task.benchmark.scored_by,
            **({"baseline": task.baseline, **task.settings} if task.baseline else {}),
        }

    def ask(self) -> None:
        """Ask the questions that have no answer yet. An interruption loses no finished answer."""
        if self.ranks.main:
            self._prepare()
        self.ranks.wait()
        done = self.log.lines().keys()
        self.ranks.wait()  # no process writes before all have read
        started = time.monotonic()
        asked = [self.task.as_asked[question.id] for question in self.task.questions]
        groups = by_image(asked)[self.ranks.rank :: self.ranks.count]
        mine = [question for group in groups for question in group]
        if remaining := [question for question in mine if question.id not in done]:
            self._ask(remaining, len(mine))
            self.model.check_unchanged()
        self.ranks.wait()
        if self.ranks.main:
            self.log.merge()
            self._write_metadata(self.earlier.get("seconds", 0.0) + time.monotonic() - started)

    def _prepare(self) -> None:
        task, log = self.task, self.log
        if dropped := log.drop_partial_lines():
            self.say(
                f"{task.title}: dropped {dropped} half-written or damaged line{'s' * (dropped > 1)}; asked again"
            )
        for reason, count in task.left_out.items():
            self.say(f"{task.title}: {count} of its questions left out: {reason}")
        done = len(log.lines())
        if changes := version_changes(self.earlier.get("versions", {}), self.metadata["versions"]):
            self.say(f"{task.title}: {changes}")
        if self.earlier:
            self.say(f"{task.title}: {done} of {len(task.questions)} answers exist already")
        if reason := self.inference.why_no_prefix_reuse:
            self.say(f"{task.title}: {reason}, so images are encoded again for each question")
        self._write_metadata(self.earlier.get("seconds", 0.0))

    def _write_metadata(self, seconds: float) -> None:
        counts = {
            "expected": self.task.benchmark.expected,
            "asked": len(self.task.questions),
            "answered": len(self.log.lines()),
            "seconds": round(seconds, 1),
        }
        left_out = {"left out": self.task.left_out} if self.task.left_out else {}
        self.log.write_metadata({**self.metadata, **counts, **left_out})

    def _ask(self, questions: list[Question], total: int) -> None:
        name = (
            self.task.title
            if self.ranks.count == 1
            else f"{self.task.title} (1 of {self.ranks.count} processes)"
        )
        progress = Progress(name, total, total - len(questions), quiet=not self.ranks.main)
        digest_of_image = lru_cache(4096)(of_image)  # questions about one image follow each other
        with self.log.part(self.ranks.rank) as append, progress:
            for answer in self.inference.ask(questions, self._skip if self.allow_partial else None):
                paths = [image for image in answer[0].images if isinstance(image, Path)]
                digest = " ".join(map(digest_of_image, paths)) or None
                model = self.model
                append(answer_line(answer, model.name, model.digest, digest, self.task.baseline))
                progress.advance()

    def _skip(self, group: Sequence[Question], error: BadSample) -> None:
        self.task.left_out[error.reason] = self.task.left_out.get(error.reason, 0) + len(group)
        self.say(f"{self.task.title}: {len(group)} of its questions left out: {error}")

    def score(self) -> report.Report:
        """Score the answer file and its baselines by the rules of `vlm-bench score`, and save the report."""
        path = self.log.path
        metadata = self.log.check(self.metadata)
        baselines, warnings = baselines_of(path, metadata)
        result = evaluate(
            self.task.config,
            read_answers(path),
            files={path.name: path},
            settings=settings_of(metadata),
            allow_partial=self.allow_partial,
            benchmark=self.task.benchmark,
            baselines=baselines,
        )
        result = replace(result, warnings=[*result.warnings, *self.model.warnings, *warnings])
        report.save(result, path.with_suffix(".json"))
        return result


def run_tasks(
    runs: Sequence[Run],
    baselines: Mapping[str, Sequence[Run]],
    ranks: Ranks,
    show: Callable[[report.Report], None],
    say: Say,
) -> int:
    """Ask and score each run, with its baselines by task name; returns the number of unexpected scoring failures.

    The model's own answers are scored before its baselines are asked, too, so that a kill in between loses no score.
    """
    failed = 0
    for run in runs:
        run.ask()
        others = baselines.get(run.task.name, ())
        if others and ranks.main:
            with suppress(UserError):
                run.score()
        for other in others:
            other.ask()
        if ranks.main:
            failed += not _scored(run, show, say)
    return failed


def _scored(run: Run, show: Callable[[report.Report], None], say: Say) -> bool:
    where = f"{run.task.name}: answers in {run.log.path}"
    try:
        show(run.score())
    except UserError as error:
        say(f"{where}; {error}")
        return run.task.benchmark.scored_by != "here"
    return True
