"""A few right and a few wrong answers, selected deterministically, for the HTML page."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_bench.report.thumbnails import digest_of
from vlm_core.benchmark import Benchmark, EncodedImage, Question, Verdict

PER_SIDE = 6
"""Number of right answers, and of wrong answers."""
MAX_TRIED = 2000
"""Maximum number of answers to examine: a model that is nearly always right has few wrong ones."""


def choose(benchmark: Benchmark, answers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Up to `PER_SIDE` answers with half a credit or more, and as many of the others; right ones first.

    Questions with an image are preferred.
    """
    keys, sides = list(answers), {True: [], False: []}
    sampled = random.Random(0).sample(keys, min(MAX_TRIED, len(keys)))
    for key in sorted(sampled, key=lambda key: benchmark.questions[key].image is None):
        verdict = benchmark.verdict(key, answers[key])
        if verdict is not None and len(side := sides[verdict.credit >= 0.5]) < PER_SIDE:
            side.append(_example(benchmark.questions[key], answers[key], verdict))
        if all(len(side) == PER_SIDE for side in sides.values()):
            break
    return sides[True] + sides[False]


def _example(question: Question, text: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": question.id,
        "prompt": question.prompt,
        "answer": text,
        "credit": float(verdict.credit),
        "right": verdict.right,
        "read": verdict.read,
        **_image(question.image),
    }


def _image(image: Path | EncodedImage | None) -> dict[str, str]:
    """An image in a data file is copied; an image file is recorded by path and digest, and read for the page."""
    if image is None or (isinstance(image, EncodedImage) and image.missing):
        return {}
    if isinstance(image, EncodedImage):
        return {"image_base64": image.text}
    digest = {"image_sha256": digest_of(image)} if image.is_file() else {}
    return {"image": str(image.absolute()), **digest}
