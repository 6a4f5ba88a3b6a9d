"""The first token of an answer: from the saved state of an image, against reading the image again.

    uv run python -m perf.state.state_file

LLaVA's template, 729 visual tokens, random weights in fp32, Mamba-130m; the encoder is a small one, so that the
language model is what is measured. `image again` reads image and question; `image saved` loads the state after the
image from a file and reads the question; `question saved` loads the state after both. All give the same token, and the
first two the same logits, bit by bit, which is checked. The model stays loaded; files come from the page cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from perf.cpu.prefix_reuse import (
    LAYERS,
    SIDE,
    SMOKE,
    TEMPLATE,
    TEXTS,
    VOCABULARY,
    WIDTH,
    name_of,
    vision_model,
)
from perf.lib.common import parser, start
from perf.lib.tables import Case, Run, compare
from PIL import Image

from vlm_core.evaluation.inference import split_at_prefix
from vlm_core.generation.generate import Session
from vlm_core.generation.prefix_reader import PrefixReader
from vlm_core.generation.sampling import GenerationConfig
from vlm_core.generation.session_file import load_session, save_session
from vlm_core.model import VLM
from vlm_core.text.render import IMAGE, Message, render

NAMES = ["image again", "image saved", "question saved"]
RATIOS = [("image again", "image saved"), ("image again", "question saved")]


def case(model: VLM, folder: Path, side: int) -> dict[str, Run]:
    picture = Image.radial_gradient("L").convert("RGB").resize((side, side))
    pixels, reader = model.encoder.transform(picture), PrefixReader(model, TEMPLATE)
    asked = render(
        TEMPLATE,
        [Message("user", (IMAGE, "\n", TEXTS[0]))],
        model.llm.tokenizer,
        [model.image_tokens(pixels)],
    )
    head, tail = split_at_prefix(asked)

    def read() -> Session:
        session = Session(model)
        reader.read(session, asked, [pixels])
        return session

    def continued() -> Session:
        session = load_session(folder / "image.state", model, TEMPLATE).session
        session.prefill([tail])
        return session

    def loaded() -> Session:
        return load_session(folder / "question.state", model, TEMPLATE).session

    session = Session(model)
    save_session(session, folder / "image.state", TEMPLATE, reader.read(session, head, [pixels]))
    save_session(read(), folder / "question.state", TEMPLATE)
    runs = dict(zip(NAMES, (read, continued, loaded), strict=True))
    _agree([run() for run in runs.values()])
    return {name: _first_token(run) for name, run in runs.items()}


def _agree(sessions: list[Session]) -> None:
    logits = [session.known_logits() for session in sessions]
    if not all(torch.equal(logits[0], other) for other in logits[1:]):
        raise SystemExit("the contestants' logits differ")


def _first_token(run: Callable[[], Session]) -> Run:
    return lambda: next(run().tokens(GenerationConfig(1)))


def cases(width: int, layers: int, vocabulary: int, side: int, folder: Path) -> Iterator[Case]:
    model = vision_model(width, layers, vocabulary, side)
    runs = case(model, folder, side)
    size = (folder / "image.state").stat().st_size / 2**20
    yield f"{name_of(model)}, a file of {size:.1f} MiB", runs


def main() -> None:
    options = start(parser(__doc__, rounds=7))
    with tempfile.TemporaryDirectory() as folder:
        shape = SMOKE if options.smoke else (WIDTH, LAYERS, VOCABULARY, SIDE)
        compare("First token", NAMES, RATIOS, cases(*shape, Path(folder)), options.rounds, warm_up=False)


if __name__ == "__main__":
    main()
