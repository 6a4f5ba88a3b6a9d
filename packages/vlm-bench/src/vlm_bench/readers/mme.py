"""MME's label files: a text file an image, a question and its answer a line, beside the image or in folders."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vlm_bench.readers.files import read_text
from vlm_bench.readers.questions import Asked, asked
from vlm_bench.scorers.mme import COGNITION, PERCEPTION
from vlm_core.errors import UserError

INSTRUCTION = "Please answer yes or no."
Key = tuple[str, str, str]
"""(task, image name without ending, question without instruction): what joins a question with its label."""


def question_of(text: str) -> str:
    """A question as labels and prompts share it: one line, MME's own instruction cut off."""
    return text.split("\n")[0].replace(INSTRUCTION, "").strip()


def read_labels(folder: Path) -> dict[Key, tuple[bool, Path]]:
    """Whether yes is right, and the file that says so."""
    found: dict[Key, tuple[bool, Path]] = {}
    for task in (*PERCEPTION, *COGNITION):
        for path in _files(folder / task):
            for key, truth in _read(task, path):
                if key in found:
                    raise UserError(f"{path}: a second label for {key[2]!r}")
                found[key] = truth, path
    if not found:
        raise UserError(
            f"{folder}: holds no labels; expected folders such as {PERCEPTION[0]}/ with .txt files"
        )
    return found


def official_questions(folder: Path, labels: Collection[Key]) -> list[Asked]:
    """The label files' own questions, as LLaVA asks them; the ids are the images, as in LLaVA's file."""
    files = {task: _images(folder / task) for task in {task for task, _, _ in labels}}
    found = []
    for task, stem, question in labels:
        image = (files[task].get(stem) or folder / task / f"{stem}.jpg").relative_to(folder).as_posix()
        found.append(asked(image, image, question, str(folder / task), task))
    return found


def _images(task: Path) -> dict[str, Path]:
    """Files by name without ending."""
    inner = task / "images"
    paths = (inner if inner.is_dir() else task).iterdir()
    return {path.stem: path for path in paths if path.suffix != ".txt"}


def _files(task: Path) -> list[Path]:
    inner = task / "questions_answers_YN"
    return sorted((inner if inner.is_dir() else task).glob("*.txt"))


def _read(task: str, path: Path) -> list[tuple[Key, bool]]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        question, _, answer = line.strip().partition("\t")
        if answer.lower() not in ("yes", "no"):
            raise UserError(f"{path}:{number}: expected a question, a tab and Yes or No, got {line!r:.60}")
        rows.append(((task, path.stem, question_of(question)), answer.lower() == "yes"))
    return rows
