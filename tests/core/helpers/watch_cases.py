"""Frames and watchers for tests of watching."""

import torch

from vlm_core.generation.generate import Session
from vlm_core.generation.watch.kept_states import KEEP
from vlm_core.generation.watch.prompt import WatchPrompt
from vlm_core.text.template import TEMPLATES

LLAVA = TEMPLATES["llava-v1"]
QUESTION = "is there a circle?"
QUESTIONS = ["red?", QUESTION, "what color is the shape?"]


def frames(count, seconds=1.0, side=32):
    """Random frames, equal in every call."""
    pixels = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return [(i * seconds, image) for i, image in enumerate(pixels)]


def watched(model, seen, template=LLAVA, keep=KEEP):
    """A watcher that has read all these frames."""
    watcher = Session(model).watch(seen, template, keep=keep)
    list(watcher)
    return watcher


def at_once(model, seen, question, template=LLAVA):
    """A session that has read the prompt of all frames and the question as one."""
    counts = [model.image_tokens(pixels) for _, pixels in seen]
    session = Session(model)
    prompt = WatchPrompt(template, model.llm.tokenizer).whole(question, counts)
    session.prefill([prompt], [pixels for _, pixels in seen])
    return session


def on_transformers(folder, model_type):
    """A model of a tiny transformers language model, in this empty folder."""
    from tiny_transformers import write_tiny

    from vlm_connectors.configs import MLPConfig
    from vlm_core.model import VLM
    from vlm_encoders.configs import TimmConfig
    from vlm_llms.configs import TransformersLLMConfig

    torch.manual_seed(0)
    size = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    tower = TimmConfig(model="vit_tiny_patch16_224", image_size=32, model_args=size).build(weights=False)
    llm = TransformersLLMConfig(model=str(write_tiny(model_type, folder))).build(weights=False)
    return VLM(tower, MLPConfig().build(tower.dim, llm.dim), llm).eval()
