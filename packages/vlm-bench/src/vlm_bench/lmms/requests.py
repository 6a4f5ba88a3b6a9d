"""Translates an lmms-eval task's `generation_kwargs`; what can't be honoured is refused with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, TypeVar

from vlm_core.errors import UserError
from vlm_core.generation.sampling import GenerationConfig

T = TypeVar("T")
MAX_NEW_TOKENS = 1024
"""Default of tasks that set none."""
LENGTHS = ("max_new_tokens", "max_gen_toks")
STOPS = ("until", "stop_sequences")
NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((1,), "this model decodes with one"),
    "repetition_penalty": ((1,), "this model decodes without a penalty"),
    "skip_special_tokens": ((True,), "answers are text without control tokens"),
}
"""Settings with one value that this model knows, and why it can't honour another."""
KNOWN = {
    *LENGTHS,
    *STOPS,
    *NEUTRAL,
    "do_sample",
    "image_aspect_ratio",
    "seed",
    "temperature",
    "top_k",
    "top_p",
}


def decoding(settings: Mapping[str, Any], seed: int = 0) -> GenerationConfig:
    """From a task's `generation_kwargs`; greedy unless the temperature is above 0 and `do_sample` isn't false.

    `seed` is for tasks that set none. A setting that is None is not set.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    if unknown := set(settings) - KNOWN:
        raise _refused(f"{', '.join(sorted(unknown))} unknown; known are {', '.join(sorted(KNOWN))}")
    for name, (values, why) in NEUTRAL.items():
        if name in settings and settings[name] not in values:
            raise _refused(f"{name} {settings[name]}; {why}")
    length = _length(settings)
    temperature, top_p = _number(settings, "temperature", 0.0), _number(settings, "top_p", 1.0, 1.0)
    if not _samples(settings, temperature):
        return GenerationConfig(length)
    return GenerationConfig(length, temperature, top_p, _whole(settings, "seed", seed, least=0))


def decodings(requests: Sequence[Any], seed: int) -> list[GenerationConfig]:
    """How each request is decoded; repetition i of a request (`repeats` of a task) is sampled with the seed plus i."""
    repetitions, configs = Counter[tuple[Any, ...]](), []
    for request in requests:
        text, settings, _, *document = request.args
        config = decoding(settings, seed)
        if config.temperature > 0:
            key = (text, *document)
            config = replace(config, seed=config.seed + repetitions[key])
            repetitions[key] += 1
        configs.append(config)
    return configs


def _refused(reason: str) -> UserError:
    return UserError(f"generation_kwargs: {reason}")


def _length(settings: Mapping[str, Any]) -> int:
    lengths = {_whole(settings, name, 0, least=1) for name in LENGTHS if name in settings}
    if len(lengths) > 1:
        raise _refused(" and ".join(f"{name} {settings[name]}" for name in LENGTHS) + " differ; set one")
    return next(iter(lengths), MAX_NEW_TOKENS)


def _samples(settings: Mapping[str, Any], temperature: float) -> bool:
    """Whether tokens are drawn at `temperature`, and not the likeliest taken."""
    wanted, top_k = settings.get("do_sample", temperature > 0), _whole(settings, "top_k", 0, least=-1)
    if not isinstance(wanted, bool):
        raise _refused(f"do_sample {wanted}; expected true or false")
    if wanted and "temperature" not in settings:
        raise _refused("do_sample true without temperature; set the temperature, too")
    samples = wanted and temperature > 0 and top_k != 1
    if samples and top_k > 1:
        raise _refused(f"top_k {top_k}; this model samples with temperature and top_p alone")
    return samples


def _whole(settings: Mapping[str, Any], name: str, default: int, *, least: int) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise _refused(f"{name} {value}; expected a whole number, {least} or more")
    return value


def _number(settings: Mapping[str, Any], name: str, default: float, most: float = 1e6) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise _refused(f"{name} {value}; expected a number from 0 to {most:g}")
    return float(value)


def stops(settings: Mapping[str, Any]) -> list[str]:
    """Stop strings: those of `until`, then those of `stop_sequences`."""
    found: list[str] = []
    for name in STOPS:
        value = settings.get(name) or []
        own = [value] if isinstance(value, str) else value
        if not isinstance(own, list | tuple) or not all(isinstance(stop, str) for stop in own):
            raise _refused(f"{name} {value}; expected a text or a list of texts")
        found += [stop for stop in own if stop]
    return list(dict.fromkeys(found))


def batches(
    items: Sequence[tuple[GenerationConfig, T]], size: int
) -> Iterator[tuple[GenerationConfig, list[T]]]:
    """Batches of up to `size` consecutive items with the same decoding; sampled ones are alone.

    A batch shares one random generator, so an answer sampled in a batch would depend on its neighbours.
    """
    for how, group in groupby(items, key=lambda item: item[0]):
        alike = [item for _, item in group]
        step = 1 if how.temperature > 0 else size
        yield from ((how, alike[start : start + step]) for start in range(0, len(alike), step))
