"""A model's answers to the last questions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from vlm_core.generation.generate import GenerationConfig, answer
from vlm_core.io import digests
from vlm_core.io.images import ImageSource, image_name
from vlm_core.model import VLM
from vlm_core.text.render import render
from vlm_train.config.evaluation import HeldOutQA
from vlm_train.data.dataset import SampleProcessor, messages
from vlm_train.distributed import watchdog
from vlm_train.evaluation.controls import ImageKey, image_key
from vlm_train.evaluation.held_out_answers import Answer
from vlm_train.evaluation.train_overlap import Contents


def spread(rows: Sequence[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """`count` rows at even distances, all of them for None."""
    return [rows[i] for i in digests.evenly_spaced(len(rows), count)]


def ask(
    model: VLM, rows: Sequence[dict[str, Any]], reader: SampleProcessor, settings: HeldOutQA
) -> list[Answer]:
    """Ask each row's last question, greedily, given the turns before it; shared images are encoded once."""
    decoding = GenerationConfig(max_new_tokens=settings.max_new_tokens)
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


def _prompt(row: dict[str, Any], reader: SampleProcessor, pixels: dict[ImageSource, torch.Tensor]):
    counts = [reader.image_tokens(pixels[image]) for image in row["image"]]
    return render(reader.template, messages(row)[:-1], reader.tokenizer, counts, system=row.get("system"))


def in_order_of_content(rows: Sequence[dict[str, Any]], contents: Contents) -> list[int]:
    """Places of the rows by images and text: batches, and so roundings, don't depend on the order of a file."""

    def content(place: int) -> tuple[ImageKey, list[str]]:
        row = rows[place]
        return image_key(row, contents), [turn["value"] for turn in row["conversations"]]

    return sorted(range(len(rows)), key=content)


def ask_together(
    model: VLM,
    rows: Sequence[dict[str, Any]],
    contents: Contents,
    reader: SampleProcessor,
    settings: HeldOutQA,
    accelerator: Accelerator,
) -> list[Answer]:
    """As `ask`, every process a part; all processes get all answers, in the order of `rows`."""
    world, rank = accelerator.num_processes, accelerator.process_index
    order = in_order_of_content(rows, contents)
    own = order[len(order) * rank // world : len(order) * (rank + 1) // world]
    answers = ask(model, [rows[place] for place in own], reader, settings)
    gathered = gather_object(list(zip(own, answers, strict=True)))
    return [answer for _, answer in sorted(gathered, key=lambda one: one[0])]
