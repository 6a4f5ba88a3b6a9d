"""Six questions about one image, as POPE asks them: from a cached state, against reading the image for each.

    uv run python -m perf.state.state_cache

As `perf/cpu/prefix_reuse.py`, through a state cache: `cached` finds the image's state in memory, `cached, on disk` in a
folder, `first time` in neither: it reads the image once and keeps it. All contestants give the same answers, which is
checked; those with a cache the same as without, bit by bit, as the tests check.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from perf.cpu.prefix_reuse import (
    LAYERS,
    SIDE,
    SMOKE,
    TEMPLATE,
    TEXTS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    name_of,
    vision_model,
)
from perf.lib.common import parser, start
from perf.lib.tables import Case, Run, compare
from PIL import Image

from vlm_core.benchmark import Question
from vlm_core.evaluation.inference import BenchmarkInference
from vlm_core.model import VLM
from vlm_core.states.cache import StateCache
from vlm_core.states.disk_cache import DiskCache

SIZES = {"": 1, ", batch of 6": 6}
KINDS = ["anew", "first time", "cached", "cached, on disk"]
NAMES = [kind + size for size in SIZES for kind in KINDS]
RATIOS = [(f"anew{size}", kind + size) for size in SIZES for kind in KINDS[1:]]


def case(model: VLM, image: Path, folder: Path) -> dict[str, Run]:
    questions = [Question(str(n), text, image) for n, text in enumerate(TEXTS)]
    memory, disk = StateCache(), DiskCache(folder)
    caches: dict[str, Callable[[], StateCache | None]] = {
        "anew": lambda: None,
        "first time": StateCache,
        "cached": lambda: memory,
        "cached, on disk": lambda: StateCache(disk=disk),
    }
    answers: dict[str, dict[str, str]] = {}

    def run(kind: str, size: str) -> None:
        inference = BenchmarkInference(
            model,
            TEMPLATE,
            batch_size=SIZES[size],
            max_new_tokens=TOKENS,
            reuse=kind != "anew",
            cache=caches[kind](),
        )
        answers[kind + size] = {question.id: text for question, text in inference.ask(questions)}
        if answers[kind + size] != next(iter(answers.values())):
            raise SystemExit(f"{kind + size}: other answers: {answers}")

    return {kind + size: partial(run, kind, size) for size in SIZES for kind in KINDS}


def cases(width: int, layers: int, vocabulary: int, side: int, folder: Path) -> Iterator[Case]:
    model, image = vision_model(width, layers, vocabulary, side), folder / "image.png"
    Image.radial_gradient("L").convert("RGB").save(image)
    yield name_of(model), case(model, image, folder / "cache")


def main() -> None:
    options = start(parser(__doc__, rounds=3))
    with tempfile.TemporaryDirectory() as folder:
        shape = SMOKE if options.smoke else (WIDTH, LAYERS, VOCABULARY, SIDE)
        compare("Six questions about one image", NAMES, RATIOS, cases(*shape, Path(folder)), options.rounds)


if __name__ == "__main__":
    main()
