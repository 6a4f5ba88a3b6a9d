"""Questions of a benchmark: grouping by image, subsampling, missing images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlm_core.benchmark import EncodedImage, Question
from vlm_core.errors import UserError

_NAMED = 5
"""Number of missing files that a message names."""


def by_image(questions: Iterable[Question]) -> list[list[Question]]:
    """Groups of questions about the same images, in order of first appearance; a question without image is a group."""
    groups: dict[object, list[Question]] = {}
    for question in questions:
        key = question.images or question.id
        groups.setdefault((type(key), key), []).append(question)
    return list(groups.values())


def sample(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """About `limit` questions: all questions of evenly spaced images; more than `limit` only if one image has more.

    MME's pairs, MMBench's rotations and POPE's splits are about one image each, so they stay together.
    """
    if limit is None or limit >= len(questions):
        return list(questions)
    groups = by_image(questions)
    for count in range(min(limit, len(groups)), 0, -1):
        chosen = [groups[i * len(groups) // count] for i in range(count)]
        if sum(map(len, chosen)) <= limit or count == 1:
            return [question for group in chosen for question in group]
    return []


def missing_images(questions: Iterable[Question]) -> dict[Path | EncodedImage, int]:
    """Missing images, each with the number of questions about it."""
    counts = Counter(image for q in questions for image in dict.fromkeys(q.images))
    return {image: count for image, count in counts.items() if not _exists(image)}


def _exists(image: Path | EncodedImage) -> bool:
    return image.is_file() if isinstance(image, Path) else not image.missing


def check_images(questions: Sequence[Question], advice: str = "") -> None:
    """Raise `UserError` with counts and the first names if images are missing."""
    if missing := missing_images(questions):
        lines = missing_lines(questions, missing)
        raise UserError(*lines[:-1], f"{lines[-1]}{advice}")


def missing_lines(questions: Sequence[Question], missing: dict[Path | EncodedImage, int]) -> list[str]:
    """Lines of a message: numbers of missing images and of their questions, and the first names."""
    images = len({image for q in questions for image in q.images})
    about = sum(not missing.keys().isdisjoint(q.images) for q in questions)
    return [
        f"{len(missing)} of {images} images are not there, {about} of {len(questions)} questions are about them:",
        *(f"  {path}" for path in list(missing)[:_NAMED]),
        *([f"  and {len(missing) - _NAMED} more"] if len(missing) > _NAMED else []),
    ]
