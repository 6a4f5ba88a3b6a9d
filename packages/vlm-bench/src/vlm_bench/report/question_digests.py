"""Digests of the questions of each unit of a headline: two reports are compared on equal questions only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vlm_core.benchmark import Benchmark, EncodedImage, Headline


def content_of(benchmark: Benchmark, headline: Headline) -> dict[str, str]:
    """A digest of each unit's questions: prompts, choices, image and right answers, without ids.

    An image file enters by its name, since scoring does not read it. A unit with unknown questions has no digest.
    """
    members = {unit: headline.members.get(unit, (unit,)) for unit in headline.units}
    return {
        unit: _digest([_question(benchmark, key) for key in keys])
        for unit, keys in members.items()
        if benchmark.questions.keys() >= set(keys)
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
