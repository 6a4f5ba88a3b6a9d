"""POPE: LLaVA's question file and POPE's label files, joined by image and question; or the label files alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from vlm_bench.configs import PopeConfig
from vlm_bench.readers.pope import SPLITS, Labels, Question, official_questions, read_labels, read_questions
from vlm_bench.scorers.pope import SplitScore, score_split
from vlm_core import benchmark
from vlm_core.benchmark import Benchmark, Headline, Score, Verdict
from vlm_core.errors import UserError

LLAVA_REVISION = "e3e39262"


def build(config: PopeConfig) -> Benchmark:
    """Read and join; questions without a label are a `UserError` with the counts."""
    return Pope(config)


class Pope(Benchmark):
    """The headline is LLaVA's: the mean of the three splits' F1, each 2TP / (2TP + FP + FN)."""

    def __init__(self, config: PopeConfig) -> None:
        path, images = config.file("questions"), config.image_folder()
        official = config.source == "official"
        asked = {} if official else read_questions(path)
        self.labels = read_labels(path if official else config.file("labels"))
        self.asked = asked or official_questions(self.labels)
        check_labels(self.asked, self.labels)
        self.sane = config.strictness == "sane"
        self.score_split = partial(score_split, sane=self.sane)
        super().__init__(
            f"llava-1.5/pope@{self.labels.revision} mean-F1",
            (
                benchmark.Question(q.id, q.prompt, images.path(q.key[0], f"{path}: question {q.id}"))
                for q in self.asked.values()
            ),
            expected=len(self.labels),
            files=({} if official else {path.name: path}) | self.labels.files,
            warnings=_doubts(self.labels),
        )

    def verdict(self, key: str, text: str) -> Verdict:
        question = self.asked[key]
        truth = self.labels.truth[question.split][question.key]
        found = self.score_split([(text, truth)])
        hit = bool(found.accuracy)
        return Verdict(hit, _word(truth), "" if self.sane and found.unclear else _word(truth == hit))

    def score(self, answers: Mapping[str, str]) -> Score:
        pairs: dict[str, list[tuple[str, bool]]] = {split: [] for split in SPLITS}
        units: dict[str, dict[str, tuple[float, float]]] = {}
        members: dict[str, list[str]] = {}
        for key, text in answers.items():
            question = self.asked[key]
            pair = text, self.labels.truth[question.split][question.key]
            pairs[question.split].append(pair)
            members.setdefault(question.key[0], []).append(key)
            _add(units.setdefault(question.key[0], {}), question.split, self.score_split([pair]))
        scores = {split: self.score_split(found) for split, found in pairs.items() if found}
        return Score(
            Headline("mean F1", units, members=members),
            {split: _figures(score) for split, score in scores.items()},
            {"read as yes without saying so": sum(s.unclear for s in scores.values())},
            _warnings(scores),
        )


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _add(unit: dict[str, tuple[float, float]], split: str, score: SplitScore) -> None:
    """An image's questions are drawn as one: the three splits ask about the same images."""
    right, of = unit.get(split, (0, 0))
    unit[split] = right + 2 * score.tp, of + 2 * score.tp + score.fp + score.fn


def check_labels(questions: Mapping[str, Question], labels: Labels) -> None:
    """Refuse questions without a label; labels without a question make a run partial."""
    faults = []
    for split in SPLITS:
        asked, known = {q.key for q in questions.values() if q.split == split}, labels.truth[split].keys()
        if unlabelled := len(asked - known):
            faults.append(
                f"  {split}: {unlabelled} of {len(asked)} questions without a label, "
                f"{len(known - asked)} of {len(known)} labels without a question"
            )
    if faults:
        raise UserError(
            "questions and labels do not belong together (joined by image and question):",
            *faults,
            f"  these labels are POPE revision {labels.revision}; LLaVA's questions belong to {LLAVA_REVISION}",
        )


def _figures(score: SplitScore) -> dict[str, float | int]:
    return {
        "n": score.total,
        "accuracy": score.accuracy,
        "precision": score.precision,
        "recall": score.recall,
        "F1": score.f1,
        "yes ratio": score.yes_ratio,
    }


def _doubts(labels: Labels) -> list[str]:
    found = [f"not read, since no split of POPE: {name}" for name in labels.other]
    if labels.revision != LLAVA_REVISION:
        found.append(f"labels of revision {labels.revision}; published LLaVA figures use {LLAVA_REVISION}")
    return found


def _warnings(scores: Mapping[str, SplitScore]) -> list[str]:
    found = [
        f"{split}: {', '.join(s.undefined)} undefined (division by zero), counted as 0"
        for split, s in scores.items()
        if s.undefined
    ]
    if absent := [split for split in SPLITS if split not in scores]:
        found.append(f"nothing answered of {', '.join(absent)}: the mean is over the other splits")
    return found
