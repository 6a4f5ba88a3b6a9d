"""Answers of a run's baselines, in files of their own next to the model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlm_bench.files.answers import Answer, read_answers
from vlm_bench.files.run_metadata import SAME_RUN, metadata_of, metadata_path
from vlm_core.errors import UserError
from vlm_core.evaluation.baselines import IMAGES_SHUFFLED, MODEL_BASELINES

PROMPTS = dict.fromkeys(MODEL_BASELINES, "the same prompt without an image") | {
    IMAGES_SHUFFLED: "the image of another question"
}
"""What the model gets, by baseline."""


class BaselineAnswers(NamedTuple):
    """A model's answers to the questions of a baseline; `prompts` says what the model got."""

    name: str
    prompts: str
    path: Path
    answers: list[Answer]


def file_stem(stem: str, baseline: str) -> str:
    """The name of a baseline's files: `pope.question-alone` for `pope`; `pope` for the model's own answers."""
    return f"{stem}.{baseline.replace(' ', '-')}" if baseline else stem


def baseline_file(path: Path, baseline: str) -> Path:
    """The baseline's file for the model's `path`: `pope.question-alone.jsonl` for `pope.jsonl`."""
    return path.with_name(f"{file_stem(path.stem, baseline)}{path.suffix}")


def baselines_of(answers: Path, metadata: Mapping[str, Any]) -> tuple[list[BaselineAnswers], list[str]]:
    """The baselines next to an answer file of a run, and warnings about those that don't belong to it.

    They must be of the same model, data and settings as `metadata`. Answers of other programs have no baselines.
    """
    baselines, warnings = [], []
    for name in MODEL_BASELINES if metadata else ():
        path = baseline_file(answers, name)
        if not path.is_file() or not path.stat().st_size:
            if metadata_path(path).is_file():
                warnings.append(f"{name}: not finished; run the same command again")
            continue
        own = metadata_of(path, metadata["benchmark"])
        if other := [key for key in SAME_RUN if own.get(key) != metadata.get(key)]:
            warnings.append(f"{name}: left out: {path.name} is of another run, {', '.join(other)} differ")
            continue
        seed = f", shuffle seed {own['shuffle_seed']}" if "shuffle_seed" in own else ""
        rows = read_answers(path)
        refuse_other_baseline(rows, name)
        baselines.append(BaselineAnswers(name, PROMPTS[name] + seed, path, rows))
    return baselines, warnings


def refuse_other_baseline(answers: Iterable[Answer], expected: str = "") -> None:
    """Raise `UserError` for answers of another baseline than `expected`; "" means the model's own answers."""
    if other := [answer for answer in answers if answer.baseline != expected]:
        kind = f"the baseline {other[0].baseline!r}" if other[0].baseline else "the model's own"
        raise UserError(
            f"{len(other)} answers are of {kind}, where {expected or 'the model'}'s are scored, first "
            f"{other[0].where}; a baseline is scored with the model's answers: name their file"
        )


def whose(answers: Iterable[Answer]) -> str:
    """The baseline that answers belong to, "" for the model's own; raises `UserError` for answers of several."""
    rows = list(answers)
    name = rows[0].baseline if rows else ""
    refuse_other_baseline(rows, name)
    return name
