"""Six questions about one image, as POPE asks them: the image read once, against read anew for each question.

    uv run python -m perf.cpu.prefix_reuse

LLaVA's template, 729 visual tokens, one-word answers, random weights in fp32; all contestants give the same answers,
which is checked, and so are the logits after the prompt. The language model is Mamba-130m, which continues from a
copied state. The encoder is a small one, so that the language model is what is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from perf.lib.common import parser, start
from perf.lib.contests import agree
from perf.lib.tables import Case, Run, compare
from PIL import Image
from torch import Tensor

from vlm_connectors.configs import MLPConfig
from vlm_core.benchmark import Question
from vlm_core.evaluation.inference import BenchmarkInference, split_at_prefix
from vlm_core.generation.generate import Session
from vlm_core.model import VLM
from vlm_core.text.render import IMAGE, Message, render
from vlm_core.text.template import TEMPLATES
from vlm_encoders.configs import TimmConfig
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.tokenizer.tokenizer import train_bpe

OBJECTS = ("dog", "bench", "traffic light", "dining table", "cup", "surfboard")
TEXTS = [
    f"Is there a {thing} in the image?\nAnswer the question using a single word or phrase."
    for thing in OBJECTS
]
TEMPLATE = TEMPLATES["llava-v1"]
TOKENS = 2  # a word and the end of text
NAMES = ["anew", "anew, batch of 6", "once", "once, batch of 6"]
RATIOS = [("anew", "once"), ("anew", "once, batch of 6"), ("anew, batch of 6", "once, batch of 6")]
WIDTH, LAYERS, VOCABULARY, SIDE = 768, 24, 50280, 432  # 27 × 27 patches of 16 pixels
SMOKE = (32, 2, 512, 64)


def language_model(width: int, layers: int, vocabulary: int) -> MambaLM:
    words = train_bpe([*TEXTS, TEMPLATE.system] * 3, 500)
    return MambaLM(width, layers, vocabulary, load_tokenizer=lambda: words).eval()


def logits(model: VLM, pixels: Tensor, once: bool) -> Tensor:
    """After the first two prompts: (2, V)."""
    count = [model.image_tokens(pixels)]
    prompts = [
        render(TEMPLATE, [Message("user", (IMAGE, "\n", text))], model.llm.tokenizer, count)
        for text in TEXTS[:2]
    ]
    whole = Session(model)
    if not once:
        whole.prefill(prompts, [pixels], [0] * len(prompts))
        return torch.as_tensor(whole.next_logits)
    whole.prefill([split_at_prefix(prompts[0])[0]], [pixels])
    session = whole.expand(len(prompts))
    session.prefill([split_at_prefix(prompt)[1] for prompt in prompts])
    return torch.as_tensor(session.next_logits)


def case(model: VLM, image: Path) -> dict[str, Run]:
    questions = [Question(str(n), text, image) for n, text in enumerate(TEXTS)]
    settings = {
        "anew": (1, False),
        "anew, batch of 6": (6, False),
        "once": (1, True),
        "once, batch of 6": (6, True),
    }
    found: dict[str, dict[str, str]] = {}

    def run(name: str) -> None:
        size, reuse = settings[name]
        inference = BenchmarkInference(model, TEMPLATE, batch_size=size, max_new_tokens=TOKENS, reuse=reuse)
        found[name] = {question.id: text for question, text in inference.ask(questions)}
        if found[name] != next(iter(found.values())):
            raise SystemExit(f"{name}: other answers: {found}")

    pixels = model.encoder.transform(Image.open(image))
    known = len(model.llm.tokenizer)  # the others are never said
    agree(logits(model, pixels, True)[:, :known], logits(model, pixels, False)[:, :known], 1e-3)
    return {name: partial(run, name) for name in NAMES}


def vision_model(width: int, layers: int, vocabulary: int, side: int) -> VLM:
    tower = TimmConfig(model="vit_tiny_patch16_224", image_size=side).build(weights=False)
    llm = language_model(width, layers, vocabulary)
    return VLM(tower, MLPConfig().build(tower.dim, llm.dim), llm).eval()


def name_of(model: VLM) -> str:
    size = sum(p.numel() for p in model.llm.parameters()) / 1e6
    return f"Mamba, {size:.0f} M, {model.image_tokens_by_default} tokens an image"


def cases(width: int, layers: int, vocabulary: int, side: int, image: Path) -> Iterator[Case]:
    model = vision_model(width, layers, vocabulary, side)
    yield name_of(model), case(model, image)


def main() -> None:
    options = start(parser(__doc__, rounds=3))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        Image.radial_gradient("L").convert("RGB").save(image)
        shape = SMOKE if options.smoke else (WIDTH, LAYERS, VOCABULARY, SIDE)
        found = cases(*shape, image)  # comparing logits warms up
        compare("Six questions about one image", NAMES, RATIOS, found, options.rounds, warm_up=False)


if __name__ == "__main__":
    main()
