"""Referring expressions and boxes: Qwen-VL's JSON lines, or REFER's own files with the pickle converted to JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from vlm_bench.benchmarks.refcoco.scoring import Box
from vlm_bench.files.answers import unique
from vlm_bench.files.json_files import json_rows, read_jsonl
from vlm_bench.files.json_object import Row
from vlm_core.errors import UserError

SPLITS = ("train", "val", "test", "testA", "testB")
SLACK = 1.0
"""Pixels by which an annotated box may exceed its image."""
LARGEST = 1e6
"""Pixels that no image's edge exceeds."""


@dataclass(frozen=True)
class Expression:
    """An expression and the box that it refers to; `size` is the image's (width, height) in pixels."""

    text: str
    image: str
    box: Box
    size: tuple[float, float]
    where: str


def qwen_expressions(path: Path) -> dict[str, Expression]:
    """Rows `{image, sent, bbox: [x1, y1, x2, y2], width, height}`. They have no ids; ours are `image/sent/x1,y1,x2,y2`.

    Of equal rows the second has `#2` at its end, and so on.
    """
    expressions, seen = {}, Counter[str]()
    for row in read_jsonl(path):
        expression = _qwen(row)
        edges = ",".join(f"{edge:g}" for edge in row.data["bbox"])
        key = f"{expression.image}/{expression.text}/{edges}"
        seen[key] += 1
        expressions[f"{key}#{seen[key]}" if seen[key] > 1 else key] = expression
    return expressions


def _qwen(row: Row) -> Expression:
    size = _number(row, "width"), _number(row, "height")
    box = _box(row, _numbers(row, "bbox", "x1, y1, x2 and y2 in pixels"), size)
    return Expression(row.named("sent"), PurePosixPath(row.named("image")).name, box, size, row.where)


def refer_expressions(refs: Path, instances: Path, split: str) -> dict[str, Expression]:
    """The expressions of a split by REFER's `sent_id`. Boxes are COCO's `[x, y, width, height]`."""
    if refs.suffix == ".p":
        raise UserError(
            f"{refs}: a pickle may run code, so it is not read; convert it once with: python -c "
            f"\"import json, pickle; json.dump(pickle.load(open('{refs.name}', 'rb')), "
            f"open('{refs.with_suffix('.json').name}', 'w'))\""
        )
    rows = [row for row in json_rows(refs) if row.one_of("split", SPLITS) == split]
    if not rows:
        raise UserError(
            f"{refs}: no expressions of split {split}; are these refs of another author's splits?"
        )
    boxes = {row.id("id"): row for row in json_rows(instances, "annotations")}
    images = {row.id("id"): row for row in json_rows(instances, "images")}
    sentences = [(sentence.id("sent_id"), sentence, row) for row in rows for sentence in _sentences(row)]
    unique([(key, sentence) for key, sentence, _ in sentences], "sent_id")
    return {key: _refer(sentence, row, boxes, images, instances) for key, sentence, row in sentences}


def _sentences(row: Row) -> list[Row]:
    items = row.items("sentences", dict, "a list of objects with 'sent' and 'sent_id'")
    return [Row(f"{row.where}: sentence number {n}", item) for n, item in enumerate(items, 1)]


def _refer(
    sentence: Row, ref: Row, boxes: dict[str, Row], images: dict[str, Row], instances: Path
) -> Expression:
    for kind, known, key in (("annotation", boxes, "ann_id"), ("image", images, "image_id")):
        if ref.id(key) not in known:
            raise UserError(
                f"{ref.where}: {instances} has no {kind} {ref.id(key)}; is it of another dataset?"
            )
    image, annotation = images[ref.id("image_id")], boxes[ref.id("ann_id")]
    if annotation.id("image_id") != ref.id("image_id"):
        raise UserError(f"{ref.where}: annotation {ref.id('ann_id')} of {instances} is of another image")
    size = _number(image, "width"), _number(image, "height")
    left, top, width, height = _numbers(annotation, "bbox", "x, y, width and height in pixels")
    box = _box(annotation, (left, top, left + width, top + height), size)
    name = f"COCO_train2014_{ref.id('image_id').zfill(12)}.jpg"
    return Expression(sentence.named("sent"), name, box, size, sentence.where)


def _number(row: Row, key: str) -> float:
    value = row.data.get(key)
    if not _is_number(value) or value <= 0:
        row.wrong(key, "a number of pixels")
    return float(value)


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number of pixels; one of hundreds of digits is no float."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= LARGEST


def _numbers(row: Row, key: str, what: str) -> list[float]:
    values = row.items(key, what=what)
    if len(values) != 4 or not all(map(_is_number, values)):
        row.wrong(key, what)
    return [float(value) for value in values]


def _box(row: Row, edges: Sequence[float], size: tuple[float, float]) -> Box:
    """Edges in pixels as fractions of the image; they must be a box in it."""
    left, top, right, bottom = edges
    inside = left >= -SLACK and top >= -SLACK and right <= size[0] + SLACK and bottom <= size[1] + SLACK
    if not (left < right and top < bottom and inside):
        row.wrong("bbox", f"a box in an image of {size[0]:g} x {size[1]:g} pixels")
    return Box(left / size[0], top / size[1], right / size[0], bottom / size[1])
