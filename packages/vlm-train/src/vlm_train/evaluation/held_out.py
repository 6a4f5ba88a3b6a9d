"""Generates a model's answers to the last question of each held-out row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from vlm_core.generation.answer import answer
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.io import digests
from vlm_core.io.images import ImageSource, image_name
from vlm_core.model import VLM
from vlm_core.text.render import render
from vlm_core.views.image_views import ImageInput
from vlm_train.config.evaluation import HeldOutQA
from vlm_train.data.dataset import SampleProcessor, messages
from vlm_train.distributed import watchdog
from vlm_train.evaluation.controls import ImageKey, image_key
from vlm_train.evaluation.held_out_answers import Answer
from vlm_train.evaluation.train_overlap import Contents


def spread(rows: Sequence[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """`count` evenly spaced rows, or all for None."""
    return [rows[i] for i in digests.evenly_spaced(len(rows), count)]


def ask(
    model: VLM, rows: Sequence[dict[str, Any]], processor: SampleProcessor, settings: HeldOutQA
) -> list[Answer]:
    """Answer each row's last question, given the turns before it; greedy. An image of a batch is encoded once."""
    generation = GenerationConfig(max_new_tokens=settings.max_new_tokens)
    answers = []
    for start in range(0, len(rows), settings.batch_size):
        watchdog.beat(f"answering questions from {start}", patient=True)
        batch = rows[start : start + settings.batch_size]
        images = sorted({image for row in batch for image in row["image"]}, key=image_name)
        pixels = {image: processor.pixels(image) for image in images}
        prompts = [_prompt(row, processor, pixels) for row in batch]
        image_indices = [images.index(image) for row in batch for image in row["image"]]
        texts = answer(model, prompts, [pixels[image] for image in images], image_indices, generation)
        answers += [
            Answer(row, text, row["conversations"][-1]["value"])
            for row, text in zip(batch, texts, strict=True)
        ]
    return answers


def _prompt(row: dict[str, Any], processor: SampleProcessor, pixels: dict[ImageSource, ImageInput]):
    counts = [processor.image_tokens(pixels[image]) for image in row["image"]]
    return render(
        processor.template, messages(row)[:-1], processor.tokenizer, counts, system=row.get("system")
    )


def order_by_content(rows: Sequence[dict[str, Any]], contents: Contents) -> list[int]:
    """Row indices sorted by images and text, so that batches, and rounding, don't depend on the order of a file."""

    def content(index: int) -> tuple[ImageKey, list[str]]:
        row = rows[index]
        return image_key(row, contents), [turn["value"] for turn in row["conversations"]]

    return sorted(range(len(rows)), key=content)


def ask_distributed(
    model: VLM,
    rows: Sequence[dict[str, Any]],
    contents: Contents,
    processor: SampleProcessor,
    settings: HeldOutQA,
    accelerator: Accelerator,
) -> list[Answer]:
    """As `ask`, divided among the processes; all of them get all answers, in the order of `rows`."""
    world, rank = accelerator.num_processes, accelerator.process_index
    order = order_by_content(rows, contents)
    share = order[len(order) * rank // world : len(order) * (rank + 1) // world]
    answers = ask(model, [rows[index] for index in share], processor, settings)
    gathered = gather_object(list(zip(share, answers, strict=True)))
    return [answer for _, answer in sorted(gathered, key=lambda pair: pair[0])]
