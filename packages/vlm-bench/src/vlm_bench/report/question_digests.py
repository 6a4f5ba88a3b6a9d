"""Digests of the questions of each unit of a headline: two reports are compared on equal questions only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from vlm_core.benchmark import Benchmark, EncodedImage, Headline


class QuestionDigests(Mapping[str, str]):
    """A digest of each unit's questions: prompts, choices, image and right answers, without ids.

    An image file enters by its name, since scoring does not read it. A unit with unknown questions has no digest. The
    digests are computed at the first use: a report that is neither saved nor compared needs none.
    """

    def __init__(self, benchmark: Benchmark, headline: Headline) -> None:
        self.benchmark, self.headline = benchmark, headline

    def __getitem__(self, unit: str) -> str:
        return self._digests[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    @cached_property
    def _digests(self) -> dict[str, str]:
        questions, known = self.benchmark.questions, self.headline.members
        members = {unit: known.get(unit, (unit,)) for unit in self.headline.units}
        return {
            unit: _digest([_question(self.benchmark, key) for key in keys])
            for unit, keys in members.items()
            if questions.keys() >= set(keys)
        }


def _question(benchmark: Benchmark, key: str) -> str:
    question = benchmark.questions[key]
    first, *others = map(_image, question.images or [None])
    facts = [question.prompt, question.choices, first, benchmark.right(key)]
    return json.dumps([*facts, others] if others else facts)


def _image(image: Path | EncodedImage | None) -> str | None:
    return image.name if isinstance(image, Path) else image and image.digest


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(sorted(texts)).encode()).hexdigest()[:16]
