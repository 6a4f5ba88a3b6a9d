"""MME's label files: one text file per image, one question and answer per line; and their other layouts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from vlm_bench.benchmarks.mme.scoring import COGNITION, PERCEPTION
from vlm_bench.files.json_files import read_text
from vlm_bench.files.questions import Asked, asked
from vlm_core.errors import UserError

INSTRUCTION = "Please answer yes or no."
TASKS = (*PERCEPTION, *COGNITION)
Key = tuple[str, str, str]
"""(task, image name without ending, question without instruction): what joins a question with its label."""


def question_of(text: str) -> str:
    """The first line of a label or prompt, without MME's instruction."""
    return text.split("\n")[0].replace(INSTRUCTION, "").strip()


def read_labels(folder: Path) -> dict[Key, bool]:
    """Whether yes is right: from one folder per task, or from one file per task, as in MME's `eval_tool.zip`."""
    labels: dict[Key, bool] = {}
    for task in TASKS:
        rows = [row for path in _files(folder / task) for row in _read(task, path)] or _read_tool_file(
            task, folder
        )
        for where, key, truth in rows:
            if key in labels:
                raise UserError(f"{where}: a second label for {key[2]!r} on {key[1]}")
            labels[key] = truth
    if not labels:
        raise UserError(
            f"{folder}: holds no labels; expected folders such as {TASKS[0]}/ with .txt files, or {TASKS[0]}.txt"
        )
    return labels


def missing_labels(folder: Path) -> str:
    """Why there are no labels; "" if there are some."""
    exist = any(_files(folder / task) or (folder / f"{task}.txt").is_file() for task in TASKS)
    return "" if exist else f"{folder}: holds no labels"


def unknown_tasks(folder: Path) -> dict[str, int]:
    """Folders with label files that belong to no task, with their numbers of files; they are not read."""
    others = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in TASKS]
    return {path.name: count for path in others if (count := len(_files(path)))}


def official_questions(folder: Path, labels: Collection[Key]) -> list[Asked]:
    """The label files' own questions, as LLaVA asks them; the ids are the images, as in LLaVA's file."""
    files = {task: _images(folder / task) for task in {task for task, _, _ in labels}}
    questions = []
    for task, stem, question in labels:
        image = (files[task].get(stem) or folder / task / f"{stem}.jpg").relative_to(folder).as_posix()
        questions.append(asked(image, image, question, str(folder / task), task))
    return questions


def _images(task: Path) -> dict[str, Path]:
    """Files by name without ending."""
    inner = task / "images"
    parent = inner if inner.is_dir() else task
    paths = parent.iterdir() if parent.is_dir() else ()
    return {path.stem: path for path in paths if path.suffix != ".txt"}


def _files(task: Path) -> list[Path]:
    inner = task / "questions_answers_YN"
    return sorted((inner if inner.is_dir() else task).glob("*.txt"))


def _read(task: str, path: Path) -> Iterator[tuple[str, Key, bool]]:
    """One `question, answer` per line, about the image with the file's name."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            question, _, answer = line.strip().partition("\t")
            truth = _truth(answer, f"{path}:{number}", "a question, a tab and Yes or No", line)
            yield f"{path}:{number}", (task, path.stem, question_of(question)), truth


def _read_tool_file(task: str, folder: Path) -> Iterator[tuple[str, Key, bool]]:
    """One `image, question, answer` per line; a model's answer may follow and is ignored."""
    path = folder / f"{task}.txt"
    if not path.is_file():
        return
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            image, question, answer = [*line.strip("\n").split("\t"), "", ""][:3]
            truth = _truth(
                answer, f"{path}:{number}", "an image, a question and Yes or No between tabs", line
            )
            yield f"{path}:{number}", (task, Path(image).stem, question_of(question)), truth


def _truth(answer: str, where: str, expected: str, line: str) -> bool:
    word = answer.strip().lower()
    if word not in ("yes", "no"):
        raise UserError(f"{where}: expected {expected}, got {line!r:.60}")
    return word == "yes"
