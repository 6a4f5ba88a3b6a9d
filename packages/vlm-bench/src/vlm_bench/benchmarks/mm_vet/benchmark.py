"""MM-Vet: open answers. A judge grades them (`vlm-bench judge`); scoring needs its grade file and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from vlm_bench.benchmarks.layout import File, ImagesConfig, file_field
from vlm_bench.benchmarks.mm_vet.files import Grades, Truth, answer_digest, read_grades, read_truths
from vlm_bench.benchmarks.mm_vet.scoring import by_run, mean, spread
from vlm_bench.files.baseline_files import baseline_file
from vlm_bench.files.label_checks import check_ids, check_texts
from vlm_bench.files.questions import read_questions
from vlm_core.benchmark import Benchmark, Chance, Question, Score, Verdict, mean_headline
from vlm_core.errors import UserError
from vlm_core.io.image_folder import ImageFolder


class MMVetConfig(ImagesConfig):
    """MM-Vet: open answers, graded by a judge; scored from a grade file"""

    layout: ClassVar = {
        "questions": "mm-vet/llava-mm-vet.jsonl",
        "labels": "mm-vet/mm-vet.json",
        "images": "mm-vet/images",
    }
    type: Literal["mm-vet"] = "mm-vet"
    questions: File | None = file_field("llava-mm-vet.jsonl")
    labels: File | None = file_field("mm-vet.json: right answers and capabilities")
    images: File | None = file_field("folder with the images")
    grades: File | None = file_field(
        "the judge's grades, as `vlm-bench judge` or the official script writes them"
    )

    def needed(self) -> list[Path]:
        """Labels are optional: the judge may have the right answers elsewhere."""
        return [self.file("questions")]

    def for_baseline(self, name: str) -> MMVetConfig:
        """With the grades of the baseline's answers: `grades.question-alone.json` next to `grades.json`."""
        path = baseline_file(self.grades, name) if self.grades else None
        return self.model_copy(update={"grades": path if path and path.is_file() else None})

    def build(self) -> MMVet:
        """Read and join. There are 218 questions about 200 images."""
        return MMVet(
            self.file("questions"),
            self.file("labels"),
            self.image_folder(),
            self.grades,
            labels_required=self.labels is not None,
        )


class MMVet(Benchmark):
    """The headline is the mean grade over questions and runs; capabilities are shown if `mm-vet.json` exists."""

    max_new_tokens = 1024

    def __init__(
        self,
        path: Path,
        labels: Path,
        images: ImageFolder,
        grades: Path | None = None,
        *,
        labels_required: bool = False,
    ) -> None:
        """Without the file `labels`, unless it is required, there are no figures by capability."""
        asked = {f"v1_{q.id}": q for q in read_questions(path)}
        if labels_required or labels.is_file():
            self.truths = _matching_truths(labels, {key: q.text for key, q in asked.items()})
        else:
            self.truths = {}
        self.grades = read_grades(grades) if grades else Grades({})
        if grades:
            check_ids(self.grades.scores.keys(), asked.keys(), path, "question in this file")
        self.grade_file = grades
        self.graded = frozenset(key for key, scores in self.grades.scores.items() if scores)
        self.scored_by = "here" if self.graded else "judge"
        judges = ", ".join(self.grades.judges) or "none"
        super().__init__(
            f"mm-vet grades by {judges}",
            (Question(key, q.text, images.path(q.image, q.where), alias=q.id) for key, q in asked.items()),
            expected=len(self.truths) or None,
            files={file.name: file for file in (path, labels if self.truths else None, grades) if file},
            notes={"judge": judges, "runs": str(self.grades.runs)} if grades else {},
            warnings=[] if self.truths else [f"{labels} does not exist: no figures by capability"],
        )

    def score(self, answers: Mapping[str, str]) -> Score:
        if not self.graded:
            raise UserError(
                "MM-Vet's answers are graded by a judge: `vlm-bench judge mm-vet` asks one; then name its file with "
                "--grades. Or upload what `vlm-bench submit mm-vet` writes to MM-Vet's online evaluator"
            )
        runs = self.grades.runs
        scored = {key: self.grades.scores.get(key, []) for key in answers}
        scored = {key: grades for key, grades in scored.items() if len(grades) == runs}
        credits = {key: mean(grades) for key, grades in scored.items()}
        each = by_run(scored)
        rows: dict[str, dict[str, float | int]] = {
            "total": {"n": len(scored), "score": mean([*credits.values()])}
        }
        parse = {"without a grade of every run (unscored)": len(answers) - len(scored)}
        return Score(
            mean_headline("score", credits),
            rows | self._by_capability(credits) | _by_run(each, len(scored)),
            parse,
            [f"{len(self.grades.judges)} judges in one grade file"] if len(self.grades.judges) > 1 else [],
            unscored=len(answers) - len(scored),
        )

    def chance(self, keys: Sequence[str]) -> Chance:
        return Chance("undefined: a judge grades free text")

    def check_answers(self, answers: Mapping[str, str]) -> list[str]:
        digests = {key: self.grades.answers.get(key) for key in self.graded if key in answers}
        other = [key for key, digest in digests.items() if digest not in (None, answer_digest(answers[key]))]
        if other:
            raise UserError(
                f"{self.grade_file}: {len(other)} of {len(self.graded)} grades are of other answers, first "
                f"{other[0]}; name the file of the answers that were graded"
            )
        unknown = sum(digest is None for digest in digests.values())
        text = f"{unknown} of {len(digests)} grades have no digest of the graded answer, as the official script's"
        return [f"{text}: nothing shows that they belong to these answers"] if unknown else []

    def verdict(self, key: str, text: str) -> Verdict | None:
        grades, truth = self.grades.scores.get(key), self.truths.get(key)
        return Verdict(mean(grades), truth.answer if truth else "") if grades else None

    def _by_capability(self, credits: Mapping[str, float]) -> dict[str, dict[str, float | int]]:
        single: dict[str, list[float]] = {}
        combined: dict[str, list[float]] = {}
        for key, credit in credits.items():
            if key in self.truths:
                for name in self.truths[key].capabilities:
                    single.setdefault(name, []).append(credit)
                combined.setdefault("+".join(sorted(self.truths[key].capabilities)), []).append(credit)
        groups = [
            *sorted(single.items(), key=_size),
            *((f"only {n}", g) for n, g in sorted(combined.items(), key=_size)),
        ]
        return {name: {"n": len(members), "score": mean(members)} for name, members in groups}

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """`{id: answer}`, which MM-Vet's online evaluator takes."""
        return {"mm-vet.json": json.dumps(dict(answers), indent=2, ensure_ascii=False).encode()}


def _matching_truths(path: Path, texts: Mapping[str, str]) -> dict[str, Truth]:
    """The right answers in a file, which must belong to the questions `texts`."""
    truths = read_truths(path)
    check_ids(texts.keys(), truths.keys(), path)
    check_texts(texts, {key: truth.question for key, truth in truths.items()}, path)
    return truths


def _size(item: tuple[str, list[float]]) -> tuple[int, str]:
    return -len(item[1]), item[0]


def _by_run(each: list[float], count: int) -> dict[str, dict[str, float | int]]:
    if len(each) < 2:
        return {}
    rows: dict[str, dict[str, float | int]] = {
        f"run {n}": {"n": count, "score": figure} for n, figure in enumerate(each, 1)
    }
    return rows | {"deviation of runs": {"n": len(each), "score": spread(each)}}
