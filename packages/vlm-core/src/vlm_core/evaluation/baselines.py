"""Baselines of an evaluation: their names, and questions without an image or about another one.

Literature calls a model without its image question-only, language-only or blind, and the most frequent training answer
a (per-question) prior or majority answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vlm_core.benchmark import EncodedImage, Question
from vlm_core.errors import BadSample, UserError

if TYPE_CHECKING:
    from vlm_core.io.images import ImageContent

CHANCE = "chance"
"""The expected score of guessing, by the benchmark's rule (`vlm_core.benchmark.Chance`)."""
QUESTION_ALONE = "question alone"
"""The model without the image: the same prompt, no image part."""
IMAGES_SHUFFLED = "images shuffled"
"""The model with the image of another question."""
IMAGES_REORDERED = "images reordered"
"""The model with the question's own images in another order: of a clip, its frames shuffled."""
LAST_IMAGE_ONLY = "last image only"
"""The model with the last of the question's images alone."""
MAJORITY_ANSWER = "majority answer"
"""No model: the most frequent answer to the same question in the training data."""
MODEL_BASELINES = QUESTION_ALONE, IMAGES_SHUFFLED
"""The baselines of a benchmark that a model answers."""
SEVERAL_IMAGES = IMAGES_REORDERED, LAST_IMAGE_ONLY
"""The baselines of questions about several images that a model answers."""

Key = TypeVar("Key", bound=Hashable)
Image = Path | EncodedImage


def other_image(order: Sequence[Key], place: int, differs: Callable[[Key, Key], bool]) -> Key | None:
    """The first entry that differs from the one at `place`, counted from half a list further; None without one.

    If all entries differ, each one replaces exactly one other.
    """
    half = len(order) // 2
    rotated = (order[(place + half + k) % len(order)] for k in range(len(order)))
    return next((entry for entry in rotated if differs(order[place], entry)), None)


class BaselineQuestions(Mapping[str, Question]):
    """The questions of a benchmark that have an image, changed for a baseline; each is changed on its first use."""

    def __init__(self, questions: Mapping[str, Question]) -> None:
        self.own = {key: question for key, question in questions.items() if question.image is not None}

    def __contains__(self, key: object) -> bool:
        return key in self.own

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, key: str) -> Question:
        raise NotImplementedError


class QuestionAlone(BaselineQuestions):
    """The same prompts without an image."""

    def __getitem__(self, key: str) -> Question:
        return replace(self.own[key], image=None, more_images=())


class ShuffledImages(BaselineQuestions):
    """Each question about another image of the benchmark, with other upright pixels.

    All questions about one image get the same other one. It depends on `seed` and on the names and contents of the
    benchmark's images, not on which questions are asked: a sample and a resumed run have the same pairs. Missing and
    unreadable images replace none. Raises `UserError` if there are no two different images.
    """

    def __init__(self, questions: Mapping[str, Question], seed: int = 0) -> None:
        super().__init__(questions)
        images = dict.fromkeys(image for question in self.own.values() for image in question.images)
        self.order = sorted(
            images, key=lambda image: _rank(image, seed)
        )  # equal names in the questions' order
        self.places = {image: place for place, image in enumerate(self.order)}
        self._content = cache(_content)
        self._other = cache(self._find)
        self._require_two()

    def __getitem__(self, key: str) -> Question:
        first, *others = (self._other(image) for image in self.own[key].images)
        return replace(self.own[key], image=first, more_images=tuple(others))

    def _find(self, image: Image) -> Image:
        other = other_image(self.order, self.places[image], self._differs)
        assert other is not None, "one of two different images differs from any third one"
        return other

    def _differs(self, image: Image, other: Image) -> bool:
        content = self._content(other)
        return content is not None and content != self._content(image)

    def _require_two(self) -> None:
        """Reads images until two differ, usually two."""
        readable = (content for image in self.order if (content := self._content(image)) is not None)
        first = next(readable, None)
        if all(content == first for content in readable):
            what = (
                "none of them can be read" if first is None else "all that can be read have the same pixels"
            )
            raise UserError(
                f"{IMAGES_SHUFFLED}: needs two different images; its {len(self.own)} questions are about "
                f"{len(self.order)} image{'' if len(self.order) == 1 else 's'}: {what}"
            )


def _rank(image: Image, seed: int) -> str:
    name = image.name if isinstance(image, Path) else image.digest
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _content(image: Image) -> ImageContent | None:
    """The content of an image; None if it can't be read."""
    from vlm_core.io.images import content_of, image_content

    try:
        if isinstance(image, Path):
            return image_content(image) if image.is_file() else None
        return None if image.missing else content_of(image.read(), "an image in a data file")
    except (BadSample, UserError):
        return None
