"""Samples of benchmarks, asked while a stage trains; any installed benchmark, none known by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from vlm_core.benchmark import Benchmark, Question
from vlm_core.errors import BadSample, UserError
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
    """A benchmark and those of its questions that are asked."""

    name: str
    benchmark: Benchmark
    asked: list[Question]


def benchmark_tasks(settings: Benchmarks | None) -> list[BenchmarkTask]:
    """Every benchmark, read and found fit to be asked; raises one `UserError` with the faults of all."""
    tasks, faults = [], []
    for config in settings.tasks if settings else []:
        assert settings
        try:
            benchmark = config.build()
            limit = None if settings.samples == "all" else settings.samples
            asked = sample(list(benchmark.questions.values()), limit)
            _refuse(benchmark, asked)
        except UserError as error:
            first, *rest = error.lines
            faults += [f"train.benchmarks, {config.type_name()}: {first}", *rest]
            continue
        tasks.append(BenchmarkTask(config.type_name(), benchmark, asked))
    if faults:
        raise UserError(*faults)
    return tasks


def _refuse(benchmark: Benchmark, asked: Sequence[Question]) -> None:
    """What could not be asked or scored is told before anything is trained."""
    if not asked:
        raise UserError("has no questions")
    if benchmark.scored_by != "here" or benchmark.graded:
        who = "on a server" if benchmark.scored_by == "server" else "by a judge"
        raise UserError(
            f"its answers are scored {who}, not here: leave it out, or choose a split with labels"
        )
    check_images(asked)
    benchmark.score({question.id: "" for question in asked})


class BenchmarkEvaluator(Evaluator):
    """Asks a stage's model as `vlm-bench run` asks a finished one: greedily, with the spec's own template.

    A stage whose result will be its averaged weights is asked with these. Every process asks its share of the images.
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
        self.askers = [
            BenchmarkInference(model, template, batch_size=settings.batch_size, max_new_tokens=length)
            for length in lengths
        ]

    def measure(self, stage_state: StageState) -> dict[str, Any]:
        strategy, ema = stage_state.strategy, stage_state.stage.ema
        averaged = ema is not None and ema.use == "result"
        module = strategy.unwrapped(stage_state.module)
        weights = stage_state.averaged() if averaged else nullcontext()
        with weights, strategy.unsharded(module), self.accelerator.autocast(), resting(stage_state.model):
            answers = [self._answers(*pair) for pair in zip(self.tasks, self.askers, strict=True)]
            watchdog.beat("waiting for the others' answers", patient=True)
            shares = gather_object([answers])
        if not self.accelerator.is_main_process:
            return {}
        figures = {
            task.name: _scored(task, {key: text for share in shares for key, text in share[place].items()})
            for place, task in enumerate(self.tasks)
        }
        return {"weights": "average" if averaged else "own", "benchmarks": figures}

    def _answers(self, task: BenchmarkTask, asker: BenchmarkInference) -> dict[str, str]:
        """This process's share of the answers, whole images; an image that can't be read leaves its questions out."""

        def skip(group: list[Question], error: BadSample) -> None:
            log.warning("%s: %d questions are not asked: %s", task.name, len(group), error)

        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        answers: dict[str, str] = {}
        own = [question for group in by_image(task.asked)[rank::world] for question in group]
        for question, text in asker.ask(own, skip):
            answers[question.id] = text
            watchdog.beat(f"asking {task.name}: {len(answers)} of {len(own)}", patient=True)
        return answers


def _scored(task: BenchmarkTask, answers: dict[str, str]) -> dict[str, Any]:
    """The figure of these answers, and of how many of the benchmark's it is."""
    score, expected = task.benchmark.score(answers), task.benchmark.expected
    scored = len(answers) - score.unscored
    return {
        "protocol": task.benchmark.protocol,
        "metric": score.headline.name,
        "score": score.headline.value,
        "unit": "points" if score.headline.points else "fraction",
        "partial": scored < expected,
        "scored": scored,
        "asked": len(task.asked),
        "expected": expected,
        "parse": dict(score.parse),
        "rows": {name: dict(row) for name, row in score.rows.items()},
    }


def inputs_of(tasks: Sequence[BenchmarkTask]) -> dict[str, Source]:
    """The benchmarks that are asked: their files, questions and images."""
    return {task.name: Source(task.name, _task_digest(task), len(task.asked)) for task in tasks}


def _task_digest(task: BenchmarkTask) -> str:
    files = [[name, digests.of_files(path)] for name, path in sorted(task.benchmark.files.items())]
    asked = [[q.id, q.prompt, q.choices, _text(q)] for q in task.asked]
    return digests.of(
        files, asked, digests.of_images([q.image for q in task.asked if isinstance(q.image, Path)])
    )


def _text(question: Question) -> str | None:
    """An image that stands in a data file."""
    return None if isinstance(question.image, Path | None) else question.image.text
