"""The contract of a benchmark: questions by id, and a rule that scores `{id: answer}`.

A package provides benchmarks with the hook `vlm_benchmarks`, which returns `BenchmarkConfig` classes; their `build`
returns a `Benchmark`. Code that runs benchmarks depends on this module only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import ClassVar, Literal

from vlm_core.encoded_image import EncodedImage, EncodedImageInFile
from vlm_core.errors import UserError
from vlm_core.placeholders import IMAGE_PLACEHOLDER
from vlm_core.question import Question

__all__ = [
    "Benchmark",
    "Chance",
    "CreditBenchmark",
    "EncodedImage",
    "EncodedImageInFile",
    "Headline",
    "Points",
    "Question",
    "Score",
    "Verdict",
    "mean_headline",
]
UNDECLARED = "not declared by this benchmark"
UNIFORM = "uniform guess among the allowed answers"
_CANDIDATES = 3
"""Most frequent right answers that are tried as constant answer."""


@dataclass(frozen=True)
class Headline:
    """The score that papers print: per part (sum of numerators) / (sum of denominators); over parts the mean or sum.

    `units` are the resampling units of the error estimate: a question, or an image with all of its questions. Each maps
    a part to its (numerator, denominator). A part whose denominators sum to 0 counts 0. The score is a fraction, shown
    in percent, unless it is in `points`. `members` are the question ids of each unit; a unit that is not in it is the
    question of that id.
    """

    name: str
    units: Mapping[str, Mapping[str, tuple[float, float]]]
    combine: Literal["mean", "sum"] = "mean"
    points: bool = False
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def question_ids(self) -> list[str]:
        """The ids of all scored questions, unit by unit."""
        return [key for unit in self.units for key in self.members.get(unit, (unit,))]

    @property
    def value(self) -> float:
        """The score; 0 without units."""
        sums: dict[str, list[float]] = {}
        for parts in self.units.values():
            for name, (numerator, denominator) in parts.items():
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += numerator
                total[1] += denominator
        ratios = [a / b if b else 0.0 for a, b in sums.values()]
        return sum(ratios) / (len(ratios) or 1) if self.combine == "mean" else sum(ratios)


class Points(float):
    """A table value in points, not a fraction; it is not shown in percent."""


@dataclass(frozen=True)
class Score:
    """The result of scoring: the headline, a table, how answers were parsed, and warnings.

    In `rows`, ints are counts, floats are fractions and `Points` are points. `unscored` counts answers that could not
    be scored (half of a pair, no grade); no score includes them.
    """

    headline: Headline
    rows: Mapping[str, Mapping[str, float | int]]
    parse: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    unscored: int = 0


@dataclass(frozen=True)
class Verdict:
    """The score of one answer: credit from 0 to 1, the right answer, and the answer as it was parsed."""

    credit: float
    right: str = ""
    read: str = ""


@dataclass(frozen=True)
class Chance:
    """The expected score of guessing, by the benchmark's own rule.

    `rule` names the guess: `UNIFORM`, or a constant answer. `headline` has the expected numerator and denominator of
    each unit that `score` has for the same questions. It is None where guessing has no score; `rule` has the reason.
    """

    rule: str
    headline: Headline | None = None


class Benchmark(ABC):
    """Questions and the rule that scores their answers.

    `protocol` names the rule and the revision of the data. `expected` is the number of answers in a complete run (the
    number of labels, where that differs from the number of questions). `files` are its data files, `notes` what a
    reader of the score must know, such as the prompt variant. Raises `UserError` for two questions with one id.
    """

    max_new_tokens: ClassVar[int] = 128
    graded: frozenset[str] = frozenset()
    """Ids that can be scored without an answer because a judge's grades exist."""
    not_asked: Mapping[str, str] = {}
    """Reasons, by id, why a question of the data files is not asked. Answers to it are counted and not scored."""
    scored_by: Literal["here", "server", "judge"] = "here"
    """Where answers are scored; unless `here`, `score` raises `UserError` saying what to do."""
    submission_notes: ClassVar[Sequence[str]] = ()
    """Notes for the user who uploads a submission."""

    def __init__(
        self,
        protocol: str,
        questions: Iterable[Question],
        *,
        expected: int | None = None,
        files: Mapping[str, Path] | None = None,
        notes: Mapping[str, str] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        all_questions = list(questions)
        self.protocol = protocol
        self.questions: Mapping[str, Question] = {question.id: question for question in all_questions}
        if duplicates := len(all_questions) - len(self.questions):
            raise UserError(f"{duplicates} questions have the id of another one")
        self.expected = len(self.questions) if expected is None else expected
        self.files = dict(files or {})
        self.notes = dict(notes or {})
        self.warnings = list(warnings)

    @abstractmethod
    def score(self, answers: Mapping[str, str]) -> Score:
        """Score answers by question id, which may cover only some of `questions`.

        Raises `UserError` saying what to do if labels are not public or a judge's grades are missing.
        """

    def allowed_answers(self, key: str) -> Sequence[str]:
        """The answers that question `key` allows; () for an open question. Default: a letter for each choice."""
        return ascii_uppercase[: len(self.questions[key].choices)]

    def chance(self, keys: Sequence[str]) -> Chance:
        """The expected score of guessing the answers to the questions `keys`; see `Chance`.

        A benchmark that can't say it returns the reason as `rule`. The default is undeclared.
        """
        return Chance(UNDECLARED)

    def guess_credit(self, key: str) -> float:
        """The expected credit of a uniform guess among the allowed answers."""
        allowed = self.allowed_answers(key)
        verdicts = [self.verdict(key, text) for text in allowed]
        return sum(verdict.credit for verdict in verdicts if verdict) / len(allowed)

    def headline(self, answers: Mapping[str, str]) -> Headline:
        """The headline of `score`; to be overridden where it costs less than the rows."""
        return self.score(answers).headline

    def best_constant(self, keys: Sequence[str], candidates: Iterable[str]) -> Chance:
        """The candidate with the best score as the answer to all questions; the first one of equal ones."""
        if not keys:
            return Chance("no question is scored")
        scores = {text: self.headline(dict.fromkeys(keys, text)) for text in candidates}
        best = max(scores, key=lambda text: scores[text].value)
        return Chance(f"always {best!r}, the best constant answer", scores[best])

    def check_answers(self, answers: Mapping[str, str]) -> Sequence[str]:
        """Warnings about answers; raises `UserError` for answers that don't belong to, say, a judge's grades."""
        return ()

    def as_asked(self, prompts: Sequence[str]) -> Benchmark:
        """This benchmark with the prompt variant of an answer file's logged prompts; itself if it has only one."""
        return self

    def same_prompt(self, question: Question, logged: str) -> bool:
        """Whether an answer file's logged prompt is this question's.

        Scripts log it with or without the image placeholder and the answer instruction.
        """
        logged, prompt = (text.replace(IMAGE_PLACEHOLDER, "").strip() for text in (logged, question.prompt))
        return logged == prompt or logged.startswith(f"{prompt}\n") or prompt.startswith(f"{logged}\n")

    def verdict(self, key: str, text: str) -> Verdict | None:
        """The score of one answer, for display; None if an answer can't be scored alone."""
        return None

    def right(self, key: str) -> str:
        """The right answer, for display; "" if unknown."""
        verdict = self.verdict(key, "")
        return verdict.right if verdict else ""

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """Files for the evaluation server, by name; `UserError` if there is no server."""
        raise UserError(f"{self.protocol} is scored here; there is no server to submit to")


class CreditBenchmark(Benchmark):
    """A benchmark that gives each answer a credit from 0 to 1; the headline is the mean."""

    metric: ClassVar[str] = "accuracy"

    @abstractmethod
    def credit(self, key: str, text: str) -> float:
        """Credit of the answer `text` to question `key`, from 0 to 1."""

    def groups(self, key: str) -> Iterable[str]:
        """Names of the table lines, besides `all`, that include question `key`."""
        return ()

    def right(self, key: str) -> str:
        """The right answer, for display."""
        return ""

    def verdict(self, key: str, text: str) -> Verdict:
        return Verdict(self.credit(key, text), self.right(key))

    def constant_answers(self, keys: Sequence[str]) -> Sequence[str]:
        """Candidates for the best constant answer to open questions. Default: the most frequent right answers."""
        counts = Counter(right for key in keys if (right := self.right(key)))
        return [text for text, _ in counts.most_common(_CANDIDATES)]

    def chance(self, keys: Sequence[str]) -> Chance:
        """A uniform guess if every question has allowed answers, else the best of `constant_answers`."""
        if keys and all(self.allowed_answers(key) for key in keys):
            return Chance(UNIFORM, mean_headline(self.metric, {key: self.guess_credit(key) for key in keys}))
        candidates = self.constant_answers(keys)
        return self.best_constant(keys, candidates) if candidates else Chance(UNDECLARED)

    def score(self, answers: Mapping[str, str]) -> Score:
        credits = {key: self.credit(key, text) for key, text in answers.items()}
        members: dict[str, list[float]] = {"all": list(credits.values())}
        for key, credit in credits.items():
            for name in self.groups(key):
                members.setdefault(name, []).append(credit)
        rows = {
            name: {"n": len(group), self.metric: sum(group) / len(group) if group else 0.0}
            for name, group in members.items()
        }
        return Score(mean_headline(self.metric, credits), rows)


def mean_headline(name: str, credits: Mapping[str, float]) -> Headline:
    """A headline that is the mean of credits by question id."""
    return Headline(name, {key: {"all": (credit, 1)} for key, credit in credits.items()})
