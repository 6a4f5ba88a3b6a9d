"""Evaluates samples of installed benchmarks while a stage trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from vlm_core.benchmark import Benchmark, Headline, Question
from vlm_core.errors import BadSample, UserError
from vlm_core.evaluation.baselines import (
    CHANCE,
    IMAGES_SHUFFLED,
    QUESTION_ALONE,
    BaselineQuestions,
    QuestionAlone,
    ShuffledImages,
)
from vlm_core.evaluation.inference import BenchmarkInference
from vlm_core.evaluation.questions import by_image, check_images, sample
from vlm_core.io import digests
from vlm_core.model import VLM
from vlm_core.text.template import AnyTemplate
from vlm_train.checkpoint.run_dir import EVALS
from vlm_train.checkpoint.run_inputs import Source
from vlm_train.config.evaluation import Benchmarks
from vlm_train.distributed import watchdog
from vlm_train.engine.evaluator import Evaluator, resting
from vlm_train.engine.stage_state import StageState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkTask:
    """A benchmark and the questions of it that are asked."""

    name: str
    benchmark: Benchmark
    questions: list[Question]
    baselines: Mapping[str, BaselineQuestions] = field(default_factory=dict)
    """All questions of each baseline that is asked."""

    @property
    def asked(self) -> dict[str, list[Question]]:
        """The questions to ask: the benchmark's under "", and those of each baseline."""
        pools = {
            name: [pool[q.id] for q in self.questions if q.id in pool]
            for name, pool in self.baselines.items()
        }
        return {"": self.questions, **pools}


def benchmark_tasks(settings: Benchmarks | None) -> list[BenchmarkTask]:
    """All benchmarks of the spec, loaded and checked; raises one `UserError` with the faults of all."""
    tasks, faults = [], []
    for config in settings.tasks if settings else []:
        assert settings
        try:
            benchmark = config.build()
            limit = None if settings.samples == "all" else settings.samples
            questions = sample(list(benchmark.questions.values()), limit)
            _check(benchmark, questions)
            pools = _baselines(benchmark) if settings.baselines else {}
        except UserError as error:
            first, *other_lines = error.lines
            faults += [f"train.benchmarks, {config.type_name()}: {first}", *other_lines]
            continue
        tasks.append(BenchmarkTask(config.type_name(), benchmark, questions, pools))
    if faults:
        raise UserError(*faults)
    return tasks


def _baselines(benchmark: Benchmark) -> dict[str, BaselineQuestions]:
    return {
        QUESTION_ALONE: QuestionAlone(benchmark.questions),
        IMAGES_SHUFFLED: ShuffledImages(benchmark.questions),
    }


def _check(benchmark: Benchmark, questions: Sequence[Question]) -> None:
    """Raise `UserError` before training for a benchmark that can't be asked or scored."""
    if not questions:
        raise UserError("has no questions")
    if benchmark.scored_by != "here" or benchmark.graded:
        who = "on a server" if benchmark.scored_by == "server" else "by a judge"
        raise UserError(
            f"its answers are scored {who}, not here: leave it out, or choose a split with labels"
        )
    check_images(questions)
    benchmark.score({question.id: "" for question in questions})


class BenchmarkEvaluator(Evaluator):
    """Evaluates a stage's model as `vlm-bench run` does a finished one: greedy decoding, the spec's template.

    With `ema.use: result`, the averaged weights are evaluated. The images are divided among the processes.
    """

    file = EVALS

    def __init__(
        self,
        settings: Benchmarks,
        tasks: Sequence[BenchmarkTask],
        model: VLM,
        template: AnyTemplate,
        accelerator: Accelerator,
    ) -> None:
        self.every, self.tasks, self.accelerator = settings.every, tasks, accelerator
        lengths = [settings.max_new_tokens or task.benchmark.max_new_tokens for task in tasks]
        self.inferences = [
            BenchmarkInference(model, template, batch_size=settings.batch_size, max_new_tokens=length)
            for length in lengths
        ]

    def measure(self, stage_state: StageState) -> dict[str, Any]:
        strategy, ema = stage_state.strategy, stage_state.stage.ema
        averaged = ema is not None and ema.use == "result"
        module = strategy.unwrapped(stage_state.module)
        weights = stage_state.averaged() if averaged else nullcontext()
        with weights, strategy.unsharded(module), self.accelerator.autocast(), resting(stage_state.model):
            answers = [
                {
                    name: self._answers(task.name, questions, inference)
                    for name, questions in task.asked.items()
                }
                for task, inference in zip(self.tasks, self.inferences, strict=True)
            ]
            watchdog.beat("waiting for the answers of other processes", patient=True)
            by_rank = gather_object([answers])
        if not self.accelerator.is_main_process:
            return {}
        scores = {
            task.name: _score(task, [share[number] for share in by_rank])
            for number, task in enumerate(self.tasks)
        }
        return {"weights": "average" if averaged else "own", "benchmarks": scores}

    def _answers(self, name: str, asked: Sequence[Question], inference: BenchmarkInference) -> dict[str, str]:
        """{question id: answer} for this process's share of the images; questions of unreadable images are skipped."""

        def skip(group: list[Question], error: BadSample) -> None:
            log.warning("%s: %d questions are skipped: %s", name, len(group), error)

        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        answers: dict[str, str] = {}
        questions = [question for group in by_image(asked)[rank::world] for question in group]
        for question, text in inference.ask(questions, skip):
            answers[question.id] = text
            watchdog.beat(f"evaluating {name}: {len(answers)} of {len(questions)}", patient=True)
        return answers


def _score(task: BenchmarkTask, shares: Sequence[Mapping[str, Mapping[str, str]]]) -> dict[str, Any]:
    """The headline score, with the counts of scored, asked and expected questions, and the baselines' scores.

    `shares` are the answers of each process, by baseline.
    """
    merged = {
        name: {key: text for share in shares for key, text in share[name].items()} for name in task.asked
    }
    answers = merged.pop("")
    score, expected = task.benchmark.score(answers), task.benchmark.expected
    scored = len(answers) - score.unscored
    return {
        "protocol": task.benchmark.protocol,
        "metric": score.headline.name,
        "score": score.headline.value,
        "unit": "points" if score.headline.points else "fraction",
        "partial": scored < expected,
        "scored": scored,
        "asked": len(task.questions),
        "expected": expected,
        "parse": dict(score.parse),
        "rows": {name: dict(row) for name, row in score.rows.items()},
        "baselines": _chance(task.benchmark, score.headline)
        | {name: task.benchmark.score(texts).headline.value for name, texts in merged.items()},
    }


def _chance(benchmark: Benchmark, headline: Headline) -> dict[str, float]:
    """The score of guessing the scored questions, if there is one."""
    chance = benchmark.chance(headline.question_ids).headline
    return {CHANCE: chance.value} if chance else {}


def inputs_of(tasks: Sequence[BenchmarkTask]) -> dict[str, Source]:
    """The inputs of the benchmarks by name, with a digest of files, questions and images."""
    return {task.name: Source(task.name, _task_digest(task), len(task.questions)) for task in tasks}


def _task_digest(task: BenchmarkTask) -> str:
    files = [[name, digests.of_files(path)] for name, path in sorted(task.benchmark.files.items())]
    questions = [[q.id, q.prompt, q.choices, *(_inline_images(q) or [None])] for q in task.questions]
    paths = [image for q in task.questions for image in q.images if isinstance(image, Path)]
    return digests.of(files, questions, digests.of_images(paths))


def _inline_images(question: Question) -> list[str | None]:
    """For each image its text, if it is stored in a data file, or None for an image file."""
    return [None if isinstance(image, Path) else image.text for image in question.images]
