"""Translates an lmms-eval task's generation settings; unsupported ones are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

from vlm_core.errors import UserError
from vlm_core.generation.sampling import GenerationConfig

T = TypeVar("T")
MAX_NEW_TOKENS = 1024
"""Default of tasks that set none."""
KNOWN = {
    "until",
    "max_new_tokens",
    "max_gen_toks",
    "temperature",
    "top_p",
    "do_sample",
    "num_beams",
    "image_aspect_ratio",
}


def decoding(settings: Mapping[str, Any]) -> GenerationConfig:
    """From a task's `generation_kwargs`; greedy unless it samples at a temperature."""
    if unknown := set(settings) - KNOWN:
        raise UserError(
            f"generation_kwargs: {', '.join(sorted(unknown))} unknown; known are {', '.join(sorted(KNOWN))}"
        )
    if (beams := settings.get("num_beams") or 1) != 1:
        raise UserError(f"generation_kwargs: num_beams {beams}; this model decodes with one")
    samples = settings.get("do_sample", True) is not False
    length = settings.get("max_new_tokens") or settings.get("max_gen_toks") or MAX_NEW_TOKENS
    temperature, top_p = settings.get("temperature") or 0.0, settings.get("top_p") or 1.0
    return GenerationConfig(int(length), float(temperature) if samples else 0.0, float(top_p))


def stops(settings: Mapping[str, Any]) -> list[str]:
    """Stop strings."""
    until = settings.get("until") or []
    return [until] if isinstance(until, str) else list(until)


def cut(text: str, ends: Sequence[str]) -> str:
    """The answer up to the first of the stop strings `ends`."""
    places = [at for end in ends if end and (at := text.find(end)) >= 0]
    return text[: min(places, default=len(text))].strip()


def batches(
    items: Sequence[tuple[GenerationConfig, T]], size: int
) -> Iterator[tuple[GenerationConfig, list[T]]]:
    """Batches of up to `size` consecutive items with the same decoding."""
    for how, group in groupby(items, key=lambda item: item[0]):
        alike = [item for _, item in group]
        yield from ((how, alike[start : start + size]) for start in range(0, len(alike), size))
