"""A saved model folder as a model of lmms-eval."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]  # an extra
from tqdm import tqdm  # lmms-eval brings it

from vlm_bench.lmms.requests import batches, decodings, stops
from vlm_bench.lmms.visuals import sampling_of, visual_input
from vlm_core.cli.common import DTYPES
from vlm_core.errors import UserError
from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.stop_strings import generate_until
from vlm_core.model_folder.assemble import load, make_current
from vlm_core.text.render import IMAGE, Message, TokenizedConversation, render, require_question
from vlm_core.views.image_views import ImageInput

logger = logging.getLogger(__name__)
KNOWN = "pretrained, dtype, trust_remote_code, frames, fps and max_frames"
"""Keys of `--model_args`."""


class SavedVLM(lmms):
    """`pretrained` is a model folder; `dtype` that of the weights, by default as they were saved.

    Code that lies in the folder runs only with `trust_remote_code=True`.

    Images and videos precede the question. `frames`, or `fps` and `max_frames`, say which frames of a video are read,
    in place of the spec's `views.video`. `<image>` in a task's text is text, not an image. Under `accelerate launch`
    each process takes the GPU of its local rank.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        trust_remote_code: bool = False,
        frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if others := {name: value for name, value in others.items() if name != "max_batch_size"}:
            raise UserError(f"--model_args: {', '.join(others)} unknown; known are {KNOWN}")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(f"--batch_size {batch_size}: expected a number of questions, 1 or more")
        if dtype is not None and dtype not in DTYPES:
            raise UserError(f"--model_args dtype={dtype}: expected one of {', '.join(DTYPES)}")
        self.batch_size, self.device = int(batch_size), torch.device(device or _device())
        if not isinstance(trust_remote_code, bool):
            raise UserError(f"--model_args trust_remote_code={trust_remote_code}: expected True or False")
        self.sampling = sampling_of({"frames": frames, "fps": fps, "max_frames": max_frames})
        number = dtype and getattr(torch, dtype)
        self.model, spec = load(
            pretrained, dtype=number, device=self.device, trust_remote_code=trust_remote_code
        )
        make_current(self.device)
        require_question(spec.template)
        self.template = spec.template

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answers in the requests' order, each up to the first of its task's stop strings.

        Tasks without a seed get that of torch, which lmms-eval sets from `--seed`.
        """
        self._warn_ratios(requests)
        answers: list[str] = []
        ends = [stops(request.args[1]) for request in requests]  # refused before the first answer
        items = list(
            zip(
                decodings(requests, torch.initial_seed() % 2**63),
                zip(requests, ends, strict=True),
                strict=True,
            )
        )
        with tqdm(total=len(items), disable=self.rank != 0, desc="Answering") as bar:
            for how, group in batches(items, self.batch_size):
                for (request, _), text in zip(group, self._answers(group, how), strict=True):
                    answers.append(text)
                    self.cache_hook.add_partial("generate_until", request.args[:2], text)
                bar.update(len(group))
        return answers

    @staticmethod
    def _warn_ratios(requests: list[Any]) -> None:
        """`image_aspect_ratio` is an option of LLaVA's adapter, which tasks set for every model."""
        if ratios := {str(ratio) for r in requests if (ratio := r.args[1].get("image_aspect_ratio"))}:
            logger.warning(
                "generation_kwargs: image_aspect_ratio %s is LLaVA's; this model's encoder prepares images",
                ", ".join(sorted(ratios)),
            )

    def _answers(self, group: Sequence[tuple[Any, list[str]]], how: GenerationConfig) -> list[str]:
        """Of requests with their stop strings."""
        images = [self._images(request) for request, _ in group]
        prompts = [self._prompt(r.args[0], inputs) for (r, _), inputs in zip(group, images, strict=True)]
        session = Session(self.model)
        session.prefill(prompts, [image for inputs in images for image in inputs])
        return generate_until(session, [ends for _, ends in group], how)

    def _images(self, request: Any) -> list[ImageInput]:
        _, _, visuals_of, doc_id, task, split = request.args
        visuals = visuals_of(self.task_dict[task][split][doc_id]) or []
        return [visual_input(self.model, visual, task, self.sampling) for visual in visuals]

    def _prompt(self, text: str, images: list[ImageInput]) -> TokenizedConversation:
        parts = [part for _ in images for part in (IMAGE, "\n")]
        counts = [self.model.image_tokens(image) for image in images]
        return render(self.template, [Message("user", (*parts, text))], self.model.llm.tokenizer, counts)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise UserError(
            f"task {_task(requests)}: compares likelihoods; `--model vlm` runs tasks that generate answers"
        )

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise UserError(
            f"task {_task(requests)}: has several rounds; `--model vlm` answers one question at a time"
        )


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def _task(requests: list[Any]) -> str:
    return str(requests[0].task_name)
