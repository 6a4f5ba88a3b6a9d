"""What a benchmark is: questions by id, and a rule that turns `{id: answer}` into figures. Nothing here computes.

A package offers benchmarks by the hook `vlm_benchmarks`, which returns `BenchmarkConfig` classes; their `build`
returns a `Benchmark`. Whoever asks the questions knows nothing but this file.
"""

from __future__ import annotations

import base64
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from vlm_core.errors import UserError
from vlm_core.io.files import open_regular
from vlm_core.placeholders import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class EncodedImage:
    """An image that stands in a data file, as base64 text; equal texts are one image."""

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def text(self) -> str:
        """The base64 text."""
        return self._text

    @cached_property
    def digest(self) -> str:
        """sha256 of the base64 text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def missing(self) -> bool:
        """Whether the file has no image where one is expected."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedImage) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.digest:.12})"

    def read(self) -> bytes:
        """The bytes of the image file."""
        try:
            return base64.b64decode(self.text, validate=True)
        except ValueError as error:
            raise UserError(f"an image in a data file is not base64: {error}") from None


class EncodedImageInFile(EncodedImage):
    """One whose text stays in its file, `length` bytes from byte `start`, and is read when it is used.

    With `length` 0 the file has no image there, and `digest` says where.
    """

    def __init__(self, path: Path, start: int, length: int, digest: str) -> None:
        self.path, self.start, self.length, self.digest = path, start, length, digest

    @property
    def missing(self) -> bool:
        return self.length == 0

    def __str__(self) -> str:
        return f"{self.path}: {self.digest if self.missing else f'the image at byte {self.start}'}"

    @property
    def text(self) -> str:
        if self.missing:
            raise UserError(str(self))
        with open_regular(self.path) as file:
            file.seek(self.start)
            content = file.read(self.length)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise UserError(
                f"{self.path}: has changed since it was read: the image at byte {self.start} is not the same"
            )
        return content.decode("ascii")


@dataclass(frozen=True)
class Question:
    """One question as a model gets it.

    `prompt` is the whole text, answer instruction included and image mark left out. `alias` is the id that
    official answer files carry where several questions share it; such answers are told apart by their prompt.
    `other_ids` are further ids that answer files may carry, shared or not.
    """

    id: str
    prompt: str
    image: Path | EncodedImage | None = None
    choices: tuple[str, ...] = ()
    alias: str | None = None
    other_ids: tuple[str, ...] = ()

    def open(self) -> PILImage | None:
        """The image as upright RGB, None where there is none."""
        from vlm_core.io.images import decode_image, load_image

        if self.image is None or isinstance(self.image, Path):
            return None if self.image is None else load_image(self.image)
        return decode_image(self.image.read(), f"question {self.id}")


@dataclass(frozen=True)
class Headline:
    """The figure that papers print: over its parts, the mean or the sum of (sum of numerators) / (sum of denominators).

    `units` are what is drawn as one when its error is estimated (a question, or an image with all of its
    questions); each says what it adds to the two sums of a part. A part whose denominators sum to 0 counts 0.
    A figure is a fraction, shown in percent, unless it is in `points`. `members` are the ids of each unit's
    questions; a unit that is not in it is the question of that id.
    """

    name: str
    units: Mapping[str, Mapping[str, tuple[float, float]]]
    combine: Literal["mean", "sum"] = "mean"
    points: bool = False
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The figure; 0 without units."""
        sums: dict[str, list[float]] = {}
        for parts in self.units.values():
            for name, (numerator, denominator) in parts.items():
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += numerator
                total[1] += denominator
        ratios = [a / b if b else 0.0 for a, b in sums.values()]
        return sum(ratios) / (len(ratios) or 1) if self.combine == "mean" else sum(ratios)


class Points(float):
    """A figure of a table that is no fraction and is shown as it is."""


@dataclass(frozen=True)
class Score:
    """What a rule made of the answers: the headline, a table, how answers were read, and what is doubtful.

    In `rows`, whole numbers are counts, floats are fractions and `Points` are points. `unscored` counts answers
    that could not be scored (half of a pair, no grade): they are in no figure.
    """

    headline: Headline
    rows: Mapping[str, Mapping[str, float | int]]
    parse: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    unscored: int = 0


@dataclass(frozen=True)
class Verdict:
    """How the rule took one answer: its worth from 0 to 1, what would have been right, and what it was read as."""

    credit: float
    right: str = ""
    read: str = ""


class Benchmark(ABC):
    """Questions and the rule that scores their answers.

    `protocol` names the rule and the revision of the data. `expected` is how many answers a complete run has
    (the number of labels where that differs from the questions). `files` are what it was read from, `notes`
    what a reader of the figure must know, such as the variant of the prompt.
    """

    max_new_tokens: ClassVar[int] = 128
    graded: frozenset[str] = frozenset()
    """Ids that can be scored without an answer, because a judge's grades are at hand."""
    scored_by: Literal["here", "server", "judge"] = "here"
    """Who gives these answers a figure; unless it is `here`, `score` raises and says what to do."""
    submission_notes: ClassVar[Sequence[str]] = ()
    """What who uploads a submission should know."""

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
        asked = list(questions)
        self.protocol = protocol
        self.questions: Mapping[str, Question] = {question.id: question for question in asked}
        if len(self.questions) != len(asked):
            raise UserError(f"{len(asked) - len(self.questions)} questions have the id of another one")
        self.expected = len(self.questions) if expected is None else expected
        self.files = dict(files or {})
        self.notes = dict(notes or {})
        self.warnings = list(warnings)

    @abstractmethod
    def score(self, answers: Mapping[str, str]) -> Score:
        """Score answers to some of `questions`; every key is one of theirs.

        Raises `UserError` where labels are not public or a judge's grades are missing, saying what to do.
        """

    def check_answers(self, answers: Mapping[str, str]) -> Sequence[str]:
        """Refuse answers that something at hand was not made for, such as a judge's grades -> warnings."""
        return ()

    def as_asked(self, prompts: Sequence[str]) -> Benchmark:
        """This benchmark in the variant of the prompts that an answer file logs; itself if there is but one."""
        return self

    def same_prompt(self, question: Question, logged: str) -> bool:
        """Whether an answer file's logged prompt is this question's.

        Scripts log it with or without the image mark and with or without an answer instruction.
        """
        seen, prompt = (text.replace(IMAGE_PLACEHOLDER, "").strip() for text in (logged, question.prompt))
        return seen == prompt or seen.startswith(f"{prompt}\n") or prompt.startswith(f"{seen}\n")

    def verdict(self, key: str, text: str) -> Verdict | None:
        """How one answer was taken, for people who look at it; None where nothing can be said of it alone."""
        return None

    def right(self, key: str) -> str:
        """What would have been right, as people read it; "" where that is not known."""
        verdict = self.verdict(key, "")
        return verdict.right if verdict else ""

    def submission(self, answers: Mapping[str, str]) -> dict[str, bytes]:
        """The files that an evaluation server takes, by name."""
        raise UserError(f"{self.protocol} is scored here; there is no server to submit to")


class CreditBenchmark(Benchmark):
    """A benchmark whose every answer has a credit from 0 to 1; the headline is their mean."""

    metric: ClassVar[str] = "accuracy"

    @abstractmethod
    def credit(self, key: str, text: str) -> float:
        """What the answer `text` to question `key` is worth."""

    def groups(self, key: str) -> Iterable[str]:
        """The table's rows, besides `all`, in which question `key` counts."""
        return ()

    def right(self, key: str) -> str:
        """What would have been right, as people read it."""
        return ""

    def verdict(self, key: str, text: str) -> Verdict:
        return Verdict(self.credit(key, text), self.right(key))

    def score(self, answers: Mapping[str, str]) -> Score:
        credits = {key: self.credit(key, text) for key, text in answers.items()}
        members: dict[str, list[float]] = {"all": list(credits.values())}
        for key, credit in credits.items():
            for name in self.groups(key):
                members.setdefault(name, []).append(credit)
        rows = {
            name: {"n": len(got), self.metric: sum(got) / len(got) if got else 0.0}
            for name, got in members.items()
        }
        return Score(mean_headline(self.metric, credits), rows)


def mean_headline(name: str, credits: Mapping[str, float]) -> Headline:
    """The mean of credits by question."""
    return Headline(name, {key: {"all": (credit, 1)} for key, credit in credits.items()})
