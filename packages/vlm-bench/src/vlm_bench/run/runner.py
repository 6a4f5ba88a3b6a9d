"""Asks a model the questions of one benchmark, from the first or from where a run before was stopped, and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from vlm_bench.evaluate import evaluate
from vlm_bench.readers.answers import read_answers
from vlm_bench.readers.files import sha256
from vlm_bench.readers.run import settings_of
from vlm_bench.report import report
from vlm_bench.run.answer_log import Facts, Journal, answer_line, digest_of
from vlm_bench.run.process_group import Ranks
from vlm_bench.run.progress import Asked
from vlm_bench.run.tasks import Settings, Subject, Task
from vlm_core.benchmark import Question
from vlm_core.errors import BadSample, UserError
from vlm_core.evaluation.inference import BenchmarkInference
from vlm_core.evaluation.questions import by_image
from vlm_core.io.digests import of_image, other_versions
from vlm_core.model_folder.assemble import versions

Say = Callable[[str], None]


class Run:
    """One task of a subject, in a folder; every process of `ranks` calls the same methods in the same order."""

    def __init__(
        self, task: Task, subject: Subject, settings: Settings, out: Path, ranks: Ranks, say: Say
    ) -> None:
        self.task, self.subject, self.ranks, self.say = task, subject, ranks, say
        self.allow_partial = settings.allow_partial or settings.limit is not None
        length = settings.max_new_tokens or task.benchmark.max_new_tokens
        self.asker = BenchmarkInference(
            subject.model,
            subject.spec.template,
            batch_size=settings.batch_size,
            max_new_tokens=length,
            reuse=settings.prefix_reuse,
        )
        self.journal = Journal(out, task.name, task.benchmark.questions)
        self.facts = self._facts(settings.batch_size, length)
        self.earlier = self.journal.check(self.facts)
        if self.earlier:
            self.journal.refuse_other_images()

    def _facts(self, batch_size: int, length: int) -> Facts:
        """What a reader of the figure must know, and what answers must share to stand in one file."""
        task, subject = self.task, self.subject
        return {
            "benchmark": task.name,
            "protocol": task.benchmark.protocol,
            "model": str(subject.path),
            "model name": subject.spec.name,
            "model sha256": subject.digest,
            "versions": {**versions(subject.spec), "vlm-bench": version("vlm-bench")},
            "files": {name: sha256(path) for name, path in task.benchmark.files.items()},
            "questions sha256": digest_of(task.benchmark.questions.values()),
            "decoding": {"max_new_tokens": length, "temperature": 0.0},
            "batch_size": batch_size,
            "dtype": subject.dtype,
            "device": subject.hardware,
            "processes": self.ranks.count,
            "prefix_reuse": self.asker.reuse,
            "scored_by": task.benchmark.scored_by,
        }

    def ask(self) -> None:
        """Ask what has no answer yet. An interruption loses nothing that was said."""
        if self.ranks.main:
            self._open()
        self.ranks.wait()
        done = self.journal.lines().keys()
        self.ranks.wait()  # nobody writes before everybody has read
        started = time.monotonic()
        groups = by_image(self.task.questions)[self.ranks.rank :: self.ranks.count]
        mine = [question for group in groups for question in group]
        if left := [question for question in mine if question.id not in done]:
            self._write(left, len(mine))
        self.ranks.wait()
        if self.ranks.main:
            self.journal.merge()
            self._describe(self.earlier.get("seconds", 0.0) + time.monotonic() - started)

    def _open(self) -> None:
        task, journal = self.task, self.journal
        if dropped := journal.mend():
            self.say(
                f"{task.name}: dropped {dropped} half-written or damaged line{'s' * (dropped > 1)}; asked again"
            )
        for reason, count in task.left_out.items():
            self.say(f"{task.name}: {count} of its questions left out: {reason}")
        done = len(journal.lines())
        if told := other_versions(self.earlier.get("versions", {}), self.facts["versions"]):
            self.say(f"{task.name}: {told}")
        if self.earlier:
            self.say(f"{task.name}: {done} of {len(task.questions)} answers are there already")
        if self.asker.why_no_prefix_reuse:
            self.say(
                f"{task.name}: {self.asker.why_no_prefix_reuse}, so images are read anew for each question"
            )
        self._describe(self.earlier.get("seconds", 0.0))

    def _describe(self, seconds: float) -> None:
        counts = {
            "expected": self.task.benchmark.expected,
            "asked": len(self.task.questions),
            "answered": len(self.journal.lines()),
            "seconds": round(seconds, 1),
        }
        left_out = {"left out": self.task.left_out} if self.task.left_out else {}
        self.journal.describe({**self.facts, **counts, **left_out})

    def _write(self, questions: list[Question], total: int) -> None:
        name = (
            self.task.name
            if self.ranks.count == 1
            else f"{self.task.name} (1 of {self.ranks.count} processes)"
        )
        progress = Asked(name, total, total - len(questions), quiet=not self.ranks.main)
        digest_of_image = lru_cache(4096)(of_image)  # questions about one image follow each other
        with self.journal.part(self.ranks.rank) as append, progress:
            for said in self.asker.ask(questions, self._skip if self.allow_partial else None):
                image = said[0].image
                digest = digest_of_image(image) if isinstance(image, Path) else None
                append(answer_line(said, self.subject.spec.name, self.subject.digest, digest))
                progress.step()

    def _skip(self, group: Sequence[Question], error: BadSample) -> None:
        self.task.left_out[error.reason] = self.task.left_out.get(error.reason, 0) + len(group)
        self.say(f"{self.task.name}: {len(group)} of its questions left out: {error}")

    def score(self) -> report.Report:
        """Score the answer file as anybody would, and save the report beside it."""
        path = self.journal.path
        found = evaluate(
            self.task.config,
            read_answers(path),
            files={path.name: path},
            settings=settings_of(self.journal.check(self.facts)),
            allow_partial=self.allow_partial,
            benchmark=self.task.benchmark,
        )
        report.save(found, path.with_suffix(".json"))
        return found


def run_tasks(runs: Sequence[Run], ranks: Ranks, show: Callable[[report.Report], None], say: Say) -> int:
    """Ask and score one after the other -> how many could not be scored though they should be."""
    failed = 0
    for run in runs:
        run.ask()
        if ranks.main:
            failed += not _scored(run, show, say)
    return failed


def _scored(run: Run, show: Callable[[report.Report], None], say: Say) -> bool:
    where = f"{run.task.name}: answers in {run.journal.path}"
    try:
        show(run.score())
    except UserError as error:
        say(f"{where}; {error}")
        return run.task.benchmark.scored_by != "here"
    return True
