"""Prefill and generation in one call."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_core.generation.generate import Session
from vlm_core.generation.sampling import GREEDY, GenerationConfig
from vlm_core.model import VLM
from vlm_core.text.render import TokenizedConversation
from vlm_core.views.image_views import ImageInput


def answer(
    model: VLM,
    samples: Sequence[TokenizedConversation],
    images: Sequence[ImageInput] = (),
    slots: Sequence[int] | None = None,
    decoding: GenerationConfig = GREEDY,
) -> list[str]:
    """`Session.prefill` and `Session.generate` -> the answer to each prompt."""
    session = Session(model)
    session.prefill(samples, images, slots)
    return session.generate(decoding)
