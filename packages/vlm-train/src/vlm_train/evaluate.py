"""Held-out questions: exact-match accuracy, by category, and the baselines that make it honest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_core.chat import write
from vlm_core.generate import Decoding, answer
from vlm_core.images import ImageSource, image_name
from vlm_core.model import VLM
from vlm_core.rows import readable
from vlm_train import watchdog
from vlm_train.config import Evaluation
from vlm_train.examples import Reader, messages
from vlm_train.llava_row import PLACEHOLDER


@dataclass(frozen=True)
class Answer:
    """One held-out question, what was said and what is true."""

    row: dict[str, Any]
    said: str
    truth: str

    @property
    def right(self) -> bool:
        return normal(self.said) == normal(self.truth)


def normal(text: str) -> str:
    """Case, surrounding white space and a final full stop don't make an answer wrong."""
    return text.strip().rstrip(".").strip().casefold()


def question(row: dict[str, Any]) -> str:
    """The row's last question as text, without image marks."""
    return row["conversations"][-2]["value"].replace(PLACEHOLDER, "").strip()


def spread_over(size: int, count: int | None) -> list[int]:
    """`count` of the places 0 … size-1 at even distances, all of them for None."""
    return list(range(size)) if count is None or count >= size else [i * size // count for i in range(count)]


def spread(rows: Sequence[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """`count` rows at even distances, all of them for None."""
    return [rows[i] for i in spread_over(len(rows), count)]


def ask(model: VLM, rows: Sequence[dict[str, Any]], reader: Reader, settings: Evaluation) -> list[Answer]:
    """Ask each row's last question, greedily, given the turns before it; shared images are encoded once."""
    decoding = Decoding(max_new_tokens=settings.max_new_tokens)
    answers = []
    for start in range(0, len(rows), settings.batch_size):
        watchdog.beat(f"answering questions from {start}", patient=True)
        batch = rows[start : start + settings.batch_size]
        images = sorted({image for row in batch for image in row["image"]}, key=image_name)
        pixels = dict(zip(images, reader.pixels({"image": images}), strict=True))
        samples = [_prompt(row, reader, pixels) for row in batch]
        views = [images.index(image) for row in batch for image in row["image"]]
        said = answer(model, samples, [pixels[image] for image in images], views, decoding)
        answers += [
            Answer(row, text, row["conversations"][-1]["value"])
            for row, text in zip(batch, said, strict=True)
        ]
    return answers


def _prompt(row: dict[str, Any], reader: Reader, pixels: dict[ImageSource, torch.Tensor]):
    counts = [reader.image_tokens(pixels[image]) for image in row["image"]]
    return write(reader.template, messages(row)[:-1], reader.tokenizer, counts, system=row.get("system"))


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Questions, and accuracy in percent over all and by category."""
    right: dict[str, list[bool]] = defaultdict(list)
    for a in answers:
        right["all"].append(a.right)
        if a.row.get("category"):
            right[a.row["category"]].append(a.right)
    accuracy = {name: 100 * sum(hits) / len(hits) for name, hits in right.items()}
    return {"questions": len(answers), "accuracy": accuracy}


def with_other_images(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same questions about other rows' images: what the model gets right without seeing.

    Images move half way round among rows with equally many of them; text-only rows stay as they are.
    """
    by_count: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_count[len(row["image"])].append(i)
    other = {
        i: group[(k + max(1, len(group) // 2)) % len(group)]
        for group in by_count.values()
        for k, i in enumerate(group)
    }
    return [{**row, "image": rows[other[i]]["image"]} for i, row in enumerate(rows)]


def pairs(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Every question and answer of a conversation, the question as text without image marks."""
    turns = [turn["value"] for turn in row["conversations"]]
    return [(normal(q.replace(PLACEHOLDER, "")), a) for q, a in zip(turns[::2], turns[1::2], strict=True)]


def question_only(train: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> list[Answer]:
    """What the words alone give: the answer most frequent in training for that very question.

    A question that training never asked gets the answer most frequent overall.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for asked, truth in (pair for row in readable(train) for pair in pairs(row)):
        by_question[asked][truth] += 1
    overall = sum(by_question.values(), Counter())
    found = []
    for row in held_out:
        asked, truth = pairs(row)[-1]
        found.append(Answer(row, (by_question.get(asked) or overall).most_common(1)[0][0], truth))
    return found
