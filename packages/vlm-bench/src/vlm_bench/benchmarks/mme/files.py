"""MME's label files: a text file an image, a question and its answer a line, beside the image or in folders."""

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
    """A question as labels and prompts share it: one line, MME's own instruction cut off."""
    return text.split("\n")[0].replace(INSTRUCTION, "").strip()


def read_labels(folder: Path) -> dict[Key, bool]:
    """Whether yes is right: from a folder a task, or from a file a task, as in MME's `eval_tool.zip`."""
    found: dict[Key, bool] = {}
    for task in TASKS:
        rows = [row for path in _files(folder / task) for row in _read(task, path)] or _tool(task, folder)
        for where, key, truth in rows:
            if key in found:
                raise UserError(f"{where}: a second label for {key[2]!r} on {key[1]}")
            found[key] = truth
    if not found:
        raise UserError(
            f"{folder}: holds no labels; expected folders such as {TASKS[0]}/ with .txt files, or {TASKS[0]}.txt"
        )
    return found


def missing_labels(folder: Path) -> str:
    """Why there are no labels; "" if there are some."""
    there = any(_files(folder / task) or (folder / f"{task}.txt").is_file() for task in TASKS)
    return "" if there else f"{folder}: holds no labels"


def unknown_tasks(folder: Path) -> dict[str, int]:
    """Folders beside the tasks' with label files in them, which are not read, with the number of files."""
    others = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in TASKS]
    return {path.name: count for path in others if (count := len(_files(path)))}


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
    home = inner if inner.is_dir() else task
    paths = home.iterdir() if home.is_dir() else ()
    return {path.stem: path for path in paths if path.suffix != ".txt"}


def _files(task: Path) -> list[Path]:
    inner = task / "questions_answers_YN"
    return sorted((inner if inner.is_dir() else task).glob("*.txt"))


def _read(task: str, path: Path) -> Iterator[tuple[str, Key, bool]]:
    """`question, answer` a line, about the image of the file's name."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            question, _, answer = line.strip().partition("\t")
            truth = _truth(answer, f"{path}:{number}", "a question, a tab and Yes or No", line)
            yield f"{path}:{number}", (task, path.stem, question_of(question)), truth


def _tool(task: str, folder: Path) -> Iterator[tuple[str, Key, bool]]:
    """`image, question, answer` a line; what a model said may follow and is not read."""
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
