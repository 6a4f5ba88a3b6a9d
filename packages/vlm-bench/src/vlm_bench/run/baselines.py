"""Tasks that ask a model the questions of baselines: without the image, and about another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vlm_bench.run.tasks import Task
from vlm_core.benchmark import Question
from vlm_core.errors import UserError
from vlm_core.evaluation.baselines import (
    IMAGES_SHUFFLED,
    MODEL_BASELINES,
    BaselineQuestions,
    QuestionAlone,
    ShuffledImages,
)

NO_IMAGE = "no image, so a baseline's question would be the same"


def named(text: str) -> tuple[str, ...]:
    """The baselines of a comma-separated list, or all; raises `UserError` for an unknown name."""
    slugs = {name.replace(" ", "-"): name for name in MODEL_BASELINES}
    chosen = list(slugs) if text == "all" else [part.strip() for part in text.split(",")]
    if unknown := [slug for slug in chosen if slug not in slugs]:
        raise UserError(f"--baselines {text}: unknown {unknown[0]!r}; there are {', '.join(slugs)}, and all")
    return tuple(name for slug, name in slugs.items() if slug in chosen)


def baseline_tasks(tasks: Sequence[Task], names: Sequence[str], seed: int) -> dict[str, list[Task]]:
    """The baselines of each task, by its name; raises one `UserError` for all that can't be made."""
    made: dict[str, list[Task]] = {task.name: [] for task in tasks}
    faults = []
    for task in tasks:
        for name in names:
            try:
                made[task.name].append(_task(task, name, seed))
            except UserError as error:
                faults.append(f"{task.name}, {error}")
    if faults:
        raise UserError(*faults, "leave out --baselines, or name only those that can be made")
    return made


def _task(task: Task, name: str, seed: int) -> Task:
    pool = _pool(task.benchmark.questions, name, seed)
    asked = [question for question in task.questions if question.id in pool.own]
    if task.questions and not asked:
        raise UserError(f"{name}: none of the {len(task.questions)} questions to ask has an image")
    without = len(task.questions) - len(asked)
    left_out = task.left_out | ({NO_IMAGE: without} if without else {})
    settings = {"shuffle_seed": seed} if name == IMAGES_SHUFFLED else {}
    return replace(task, questions=asked, left_out=left_out, baseline=name, settings=settings, pool=pool)


def _pool(questions: Mapping[str, Question], name: str, seed: int) -> BaselineQuestions:
    pool = ShuffledImages(questions, seed) if name == IMAGES_SHUFFLED else QuestionAlone(questions)
    if not pool:
        raise UserError(f"{name}: no question has an image")
    return pool
