"""Prompts and images for tests of decoding."""

import torch

from vlm_core.generation.sampling import GenerationConfig
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES

SHORT = TEMPLATES["short"]
LONG = GenerationConfig(max_new_tokens=8)


def prompt(model, text, image=None):
    parts = (IMAGE, "\n", text) if image is not None else (text,)
    counts = [model.image_tokens(image)] if image is not None else []
    return render(SHORT, [Message("user", parts)], model.llm.tokenizer, counts)


def images(count):
    return list(torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
