"""MME: LLaVA's question file and MME's label files, joined by task, image and question.

LLaVA's file names a question by its image, which two share, so our ids are `task/image/question`. The official
tool treats consecutive lines as a pair; here a pair is the two questions about an image of a task.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from vlm_bench.benchmarks.layout import File, ImagesConfig, Source, Strictness, file_field
from vlm_bench.benchmarks.mme.files import (
    Key,
    missing_labels,
    official_questions,
    question_of,
    read_labels,
    unknown_tasks,
)
from vlm_bench.benchmarks.mme.scoring import COGNITION, PERCEPTION, Task, parse, parse_normalized, score
from vlm_bench.files.label_checks import check_ids
from vlm_bench.files.questions import Asked, read_questions
from vlm_core.benchmark import UNIFORM, Benchmark, Chance, Headline, Points, Question, Score, Verdict
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder

Pair = tuple[str, str]
"""(task, image)"""
Hits = Mapping[Pair, tuple[float, float]]
"""Whether each answer of a pair is right, or the probabilities of independent guesses."""
_EXAMPLE = "code_reasoning/0020.png"


class MMEConfig(ImagesConfig):
    """MME: perception, as papers print it, and cognition"""

    layout: ClassVar = {
        "questions": "MME/llava_mme.jsonl",
        "questions.official": "MME/MME_Benchmark_release_version",
        "labels": "MME/MME_Benchmark_release_version",
    }
    type: Literal["mme"] = "mme"
    source: Source = "llava"
    questions: File | None = file_field("llava_mme.jsonl, or the folder with the labels")
    labels: File | None = file_field("MME_Benchmark_release_version, with the images")
    strictness: Strictness = "official"

    def lacking(self) -> str:
        official = self.source == "official"
        return super().lacking() or missing_labels(self.file("questions" if official else "labels"))

    def build(self) -> Benchmark:
        """Read and join. There are 2,374 questions about 1,187 images, in 14 tasks."""
        official = self.source == "official"
        folder = "questions" if official else "labels"
        return MME(
            None if official else self.file("questions"),
            self.file(folder),
            self.image_folder(folder),
            normalized=self.strictness == "normalized",
        )


class MME(Benchmark):
    """The headline is perception, the sum over ten tasks, at most 2000; the maximum of cognition is 800."""

    def __init__(
        self, path: Path | None, folder: Path, images: ImageFolder, *, normalized: bool = False
    ) -> None:
        """`path` is LLaVA's question file; without it, the questions of the label files in `folder` are asked."""
        questions = read_questions(path, distinct=False) if path else []
        labels = read_labels(folder)
        questions = questions or official_questions(folder, labels)
        asked = {"/".join(key): (key, q) for q in questions for key in [_key(q)]}
        check_ids(asked.keys(), {"/".join(key) for key in labels}, folder)
        self.keys = {name: key for name, (key, _) in asked.items()}
        self.truth = {name: labels[key] for name, key in self.keys.items()}
        self.parse = parse_normalized if normalized else parse
        super().__init__(
            "llava-1.5/mme perception",
            (Question(name, q.text, _image(images, q), alias=q.id) for name, (_, q) in asked.items()),
            expected=len(labels),
            files={path.name: path} if path else {},
            notes={"labels sha256": _digest(labels)},
            warnings=[
                f"not read, since no task of MME: {count} label files in {name}/"
                for name, count in unknown_tasks(folder).items()
            ],
        )
        self._check_pairs()

    def _check_pairs(self) -> None:
        odd = [pair for pair, names in self._pairs(self.questions).items() if len(names) != 2]
        if odd:
            raise UserError(f"{len(odd)} images without exactly two questions, first {'/'.join(odd[0])}")

    def _pairs(self, names: Iterable[str]) -> dict[Pair, list[str]]:
        pairs: dict[Pair, list[str]] = defaultdict(list)
        for name in names:
            pairs[self.keys[name][:2]].append(name)
        return pairs

    def score(self, answers: Mapping[str, str]) -> Score:
        words = {name: self.parse(text) for name, text in answers.items()}
        right = {name: word == ("yes" if self.truth[name] else "no") for name, word in words.items()}
        complete = self._complete(answers)
        hits = {pair: (right[a], right[b]) for pair, (a, b) in complete.items()}
        tasks = {t: score(h for (task, _), h in hits.items() if task == t) for t in (*PERCEPTION, *COGNITION)}
        return Score(
            self._headline(hits, complete),
            _rows({name: task for name, task in tasks.items() if task.pairs}),
            {"neither yes nor no (wrong)": sum(word == "other" for word in words.values())},
            _warnings(tasks),
            unscored=len(answers) - 2 * len(complete),
        )

    def allowed_answers(self, key: str) -> Sequence[str]:
        return "yes", "no"

    def chance(self, keys: Sequence[str]) -> Chance:
        """A uniform guess: a task's accuracy is 50 and its accuracy+ 25. A constant answer has 50 and 0."""
        complete = self._complete(keys)
        guesses = {pair: (self.guess_credit(a), self.guess_credit(b)) for pair, (a, b) in complete.items()}
        return Chance(UNIFORM, self._headline(guesses, complete))

    def _complete(self, names: Iterable[str]) -> dict[Pair, list[str]]:
        return {pair: both for pair, both in self._pairs(names).items() if len(both) == 2}

    def _headline(self, hits: Hits, complete: Mapping[Pair, list[str]]) -> Headline:
        return Headline("perception", _units(hits), "sum", points=True, members=_members(complete))

    def verdict(self, key: str, text: str) -> Verdict:
        word, right = self.parse(text), "yes" if self.truth[key] else "no"
        return Verdict(word == right, right, word)

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """A text file per task for the official tool. Line ends and tabs in an answer would break its lines."""
        lines: dict[str, list[str]] = defaultdict(list)
        for (task, image), names in self._pairs(answers).items():
            for name in names:
                truth = "Yes" if self.truth[name] else "No"
                row = (f"{image}.txt", self.keys[name][2], truth, " ".join(answers[name].split()))
                lines[task].append("\t".join(row) + "\n")
        return {f"{task}.txt": "".join(rows).encode() for task, rows in lines.items()}


def _key(asked: Asked) -> Key:
    path = PurePosixPath(asked.id)
    if len(path.parts) < 2:
        raise UserError(f"{asked.where}: question_id {asked.id!r} is no task and image, such as {_EXAMPLE!r}")
    return path.parts[0], path.stem, question_of(asked.text)


def _image(images: ImageFolder, q: Asked) -> Path:
    """In the task's folder, or in its subfolder `images` if there is one."""
    flat = images.path(q.image, q.where)
    task = Path(q.image).parent / "images"
    return images.path(str(task / flat.name), q.where) if (flat.parent / "images").is_dir() else flat


def _digest(labels: Mapping[Key, bool]) -> str:
    """One hash over all labels, independent of their order."""
    rows = sorted((*key, yes) for key, yes in labels.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _units(hits: Hits) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        f"{task}/{image}": {
            f"{task} accuracy": (100 * (a + b), 2),
            f"{task} accuracy+": (100 * (a * b), 1),
        }
        for (task, image), (a, b) in hits.items()
        if task in PERCEPTION
    }


def _members(pairs: Mapping[Pair, list[str]]) -> dict[str, list[str]]:
    return {"/".join(pair): names for pair, names in pairs.items() if pair[0] in PERCEPTION}


def _rows(tasks: Mapping[str, Task]) -> dict[str, dict[str, float | int]]:
    sums = {"perception": PERCEPTION, "cognition": COGNITION}
    rows = {name: _figures([task]) for name, task in tasks.items()}
    return {name: _figures([tasks[t] for t in group if t in tasks]) for name, group in sums.items()} | rows


def _figures(tasks: list[Task]) -> dict[str, float | int]:
    answers, pairs = sum(t.answers for t in tasks), sum(t.pairs for t in tasks)
    return {
        "n": answers,
        "accuracy": sum(t.right for t in tasks) / (answers or 1),
        "accuracy+": sum(t.both for t in tasks) / (pairs or 1),
        "score": Points(sum(t.points for t in tasks)),
    }


def _warnings(tasks: Mapping[str, Task]) -> list[str]:
    groups = {"perception": PERCEPTION, "cognition": COGNITION}
    absent = {name: [task for task in group if not tasks[task].pairs] for name, group in groups.items()}
    return [f"nothing scored of {', '.join(t)}: they add 0 to {name}" for name, t in absent.items() if t]
