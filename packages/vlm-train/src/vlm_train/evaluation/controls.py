"""Controls of an evaluation: accuracy with other, reordered or fewer images, and of the majority answer.

A control depends on the content of the rows, not on their order.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vlm_core.errors import BadSample
from vlm_core.evaluation.baselines import (
    IMAGES_REORDERED,
    IMAGES_SHUFFLED,
    LAST_IMAGE_ONLY,
    QUESTION_ALONE,
    other_image,
)
from vlm_core.io.images import ImageContent, ImageSource, image_name
from vlm_core.io.video.sources import VideoSource
from vlm_train.data.conversation.llava_schema import PLACEHOLDER
from vlm_train.distributed import watchdog
from vlm_train.evaluation.held_out_answers import Answer, normalized, pairs

Row = Mapping[str, Any]
ImageKey = tuple[ImageContent, ...]
"""The contents of a row's images, in order."""
NO_IMAGE, NO_OTHER = "no image", "no other image"
NO_ORDER, NO_SECOND = "no other order of the images", "no second image"


class Changed(NamedTuple):
    """Rows with other images, and the number of excluded rows by reason."""

    rows: list[dict[str, Any]]
    dropped: dict[str, int]


def image_key(row: Row, contents: Mapping[str, ImageContent]) -> ImageKey:
    """The contents of a row's images, from `contents` by image name."""
    return tuple(contents[image_name(image)] for image in row["image"])


def with_other_images(rows: Sequence[Row], contents: Mapping[str, ImageContent]) -> Changed:
    """The same questions about other images: measures what the model answers correctly without the image.

    The images of a row are replaced by equally many images of another row, none of which is the row's own, and videos
    by videos. The distinct images are sorted by digest and rotated by half their number, so each replaces exactly one
    other. Rows without an image are excluded, and rows for whose images there is no replacement.
    """
    images: dict[ImageKey, Sequence[ImageSource]] = {}
    for row in rows:
        images.setdefault(image_key(row, contents), row["image"])
    others = _others(images)
    shuffled, dropped = [], Counter[str]()
    for row in rows:
        other = others.get(image_key(row, contents))
        if other is None:
            dropped[NO_OTHER if row["image"] else NO_IMAGE] += 1
        else:
            shuffled.append({**row, "image": list(images[other])})
    return Changed(shuffled, dict(dropped))


def _others(images: Mapping[ImageKey, Sequence[ImageSource]]) -> dict[ImageKey, ImageKey]:
    """For each key another one with images and videos in the same order and none in common, if there is one."""
    by_kinds: dict[tuple[bool, ...], list[ImageKey]] = defaultdict(list)
    for key in sorted(images):
        by_kinds[tuple(isinstance(image, VideoSource) for image in images[key])].append(key)
    others = {}
    for kinds, group in by_kinds.items():
        for place, key in enumerate(group if kinds else ()):
            other = other_image(group, place, lambda a, b: set(a).isdisjoint(b))
            if other is not None:
                others[key] = other
    return others


def reordered(rows: Sequence[Row], contents: Mapping[str, ImageContent]) -> Changed:
    """The same questions about the row's own images in another order: measures what the order tells the model.

    The order is seeded by the images' contents. Rows whose images have no other order are excluded: one image, or
    equal ones.
    """
    changed, dropped = [], Counter[str]()
    for row in rows:
        key = image_key(row, contents)
        if len(set(key)) < 2:
            dropped[NO_ORDER if row["image"] else NO_IMAGE] += 1
            continue
        rng, images = random.Random(repr(key)), list(row["image"])
        while tuple(contents[image_name(image)] for image in images) == key:
            rng.shuffle(images)
        changed.append({**row, "image": images})
    return Changed(changed, dict(dropped))


def with_last_image(rows: Sequence[Row], contents: Mapping[str, ImageContent]) -> Changed:
    """The same questions with the last image of the row alone. Rows with fewer than two images are excluded."""
    several = [row for row in rows if len(row["image"]) > 1]
    dropped = Counter(NO_SECOND if row["image"] else NO_IMAGE for row in rows if len(row["image"]) < 2)
    return Changed([_with_last(row, 1) for row in several], dict(dropped))


def without_images(rows: Sequence[Row], contents: Mapping[str, ImageContent]) -> Changed:
    """The same questions without any image. Rows without one are excluded."""
    shown = [row for row in rows if row["image"]]
    missing = len(rows) - len(shown)
    return Changed([_with_last(row, 0) for row in shown], {NO_IMAGE: missing} if missing else {})


def _with_last(row: Row, count: int) -> dict[str, Any]:
    """The row with its last `count` images and their placeholders."""
    excess, turns = len(row["image"]) - count, []
    for turn in row["conversations"]:
        text = turn["value"]
        if turn["from"] == "human":
            here = min(excess, text.count(PLACEHOLDER))
            text, excess = text.replace(PLACEHOLDER, "", here).lstrip("\n" if here else ""), excess - here
        turns.append({**turn, "value": text})
    return {**row, "image": row["image"][len(row["image"]) - count :], "conversations": turns}


CHANGES: dict[str, Callable[[Sequence[Row], Mapping[str, ImageContent]], Changed]] = {
    IMAGES_SHUFFLED: with_other_images,
    IMAGES_REORDERED: reordered,
    LAST_IMAGE_ONLY: with_last_image,
    QUESTION_ALONE: without_images,
}
"""What each control that the model answers changes in the rows; in the order of tables."""


class MajorityAnswers(NamedTuple):
    """The answers; `training_rows` is how many training rows were `counted` and how many were `unreadable`."""

    answers: list[Answer]
    training_rows: dict[str, Any]


def majority_answers(train: Sequence[Row], rows: Sequence[Row]) -> MajorityAnswers:
    """The most frequent training answer to the same question.

    Questions and answers are `normalized`, as in scoring. Ties go to the first answer in alphabetical order. A question
    that is not in the training data gets the most frequent answer overall.
    """
    by_question, overall, counted = _counts(train)
    most_frequent = {question: _most_frequent(counts) for question, counts in by_question.items()}
    default = _most_frequent(overall)
    answers = []
    for row in rows:
        question, truth = pairs(row)[-1]
        answers.append(Answer(row, most_frequent.get(normalized(question), default), truth))
    return MajorityAnswers(answers, {"counted": counted, "unreadable": len(train) - counted})


def _counts(train: Sequence[Row]) -> tuple[dict[str, Counter[str]], Counter[str], int]:
    """(counts of answers by question, counts of answers overall, number of readable rows)."""
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    counted = 0
    for i in range(len(train)):
        watchdog.beat(f"counting answers of row {i}")
        try:
            row = train[i]
        except BadSample:
            continue
        counted += 1
        for question, truth in pairs(row):
            by_question[normalized(question)][normalized(truth)] += 1
            overall[normalized(truth)] += 1
    return by_question, overall, counted


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer), default="")
