"""Preprocessing and activation of pretrained weights, each value from one source: spec, config file, published tag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vlm_core.errors import UserError
from vlm_encoders.weights.preprocessor_config import REFUSED

SAVED = "preprocessing"
"""The key under which a saved encoder's config keeps them."""
NEEDED = ("mean", "std", "interpolation", "resize_mode")
KEYS = (*NEEDED, "crop_pct", "activation", "image_size")
"""All of them are keys of a spec."""
DEFAULTS: dict[str, Any] = {"interpolation": "bicubic", "resize_mode": "resize", "crop_pct": 1.0}
SPEC = "the spec"
MAX_SIDE = 8192
"""Pixels of an image's side."""


class Told(NamedTuple):
    """The values that one source has, and its name in messages."""

    where: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """Values by key of the spec, and where each was read."""

    values: dict[str, Any]
    sources: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def content(self) -> dict[str, Any]:
        """What a model folder keeps."""
        return {"values": self.values, "sources": self.sources}

    def arguments(self) -> dict[str, Any]:
        """Those of `Tower`."""
        names = (*NEEDED, "crop_pct")
        return {name: self.values[name] for name in names} | {"sources": self.sources}


def spec_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the spec sets; `image_size` as (height, width)."""
    if unknown := keys.keys() - set(KEYS):
        raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
    found = {key: value for key, value in keys.items() if value is not None}
    if "image_size" in found:
        found["image_size"] = (found["image_size"],) * 2
    return found


def settle(
    what: str,
    keys: Iterable[str],
    spec: Mapping[str, Any],
    beside: Sequence[Told],
    published: Sequence[Told] = (),
) -> Facts:
    """Each key from the spec, else from files `beside` the weights, else from tags `published`, else by default.

    Raises `UserError` if two files differ, if no file has the value and tags differ, or if no source has it; the
    message names the values and the key to set in the spec. A key that is not in `NEEDED` may stay unknown.
    """
    facts = Facts({})
    for key in keys:
        if key in spec:
            facts.values[key], facts.sources[key] = spec[key], SPEC
            continue
        for tellers, hint in ((beside, ""), (published, " and no file beside the weights decides")):
            if found := [Told(told.where, {key: told.facts[key]}) for told in tellers if key in told.facts]:
                _check(key, found)
                _agree(what, key, found, hint)
                facts.values[key], facts.sources[key] = found[0].facts[key], _where(found)
                break
        else:
            _default(what, key, facts, beside)
    return facts


def _check(key: str, found: Sequence[Told]) -> None:
    """Raise `UserError` for a value that is no valid setting."""
    fits, expected = _VALID.get(key, (None, ""))
    for told in found:
        if fits and not fits(told.facts[key]):
            raise UserError(
                f"{told.where} says {key} {_shown(told.facts[key])}; expected {expected}; correct it, or give {key} "
                "in the spec"
            )


def _are_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == count
        and all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value)
    )


_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mean": (
        lambda v: _are_numbers(v, 3) and all(abs(x) <= 1 for x in v),
        "three numbers, for R, G and B in [0, 1]",
    ),
    "std": (lambda v: _are_numbers(v, 3) and min(v) > 0, "three numbers above 0, for R, G and B in [0, 1]"),
    "image_size": (
        lambda v: _are_numbers(v, 2) and all(isinstance(x, int) and 0 < x <= MAX_SIDE for x in v),
        f"height and width in pixels, at most {MAX_SIDE}",
    ),
    "crop_pct": (lambda v: _are_numbers([v], 1) and 0 < v <= 1, "a number above 0, at most 1"),
    "activation": (lambda v: isinstance(v, str), "the name of an activation"),
    "interpolation": (lambda v: isinstance(v, str), "the name of one of Pillow's filters"),
    "resize_mode": (lambda v: v in ("resize", "pad", "crop"), "resize, pad or crop"),
}


def _agree(what: str, key: str, found: Sequence[Told], hint: str) -> None:
    first = found[0]
    for other in found[1:]:
        if not same(first.facts[key], other.facts[key]):
            raise UserError(
                f"{what}: {first.where} says {key} {_shown(first.facts[key])}, {other.where} says "
                f"{_shown(other.facts[key])}{hint}; give {key} in the spec"
            )


def _default(what: str, key: str, facts: Facts, beside: Sequence[Told]) -> None:
    for told in beside:
        if key == "resize_mode" and REFUSED in told.facts:
            raise UserError(f"{what}: {told.facts[REFUSED]}; give fit in the spec: resize, pad or crop")
    if key in DEFAULTS:
        facts.values[key], facts.sources[key] = DEFAULTS[key], "default, without any source"
    elif key in NEEDED:
        raise UserError(f"{what}: no file beside the weights has {key}; give {key} in the spec")


def _where(found: Sequence[Told]) -> str:
    return found[0].where if len(found) == 1 else f"{found[0].where} and {len(found) - 1} more that agree"


def same(a: Any, b: Any) -> bool:
    """Equal up to the rounding of numbers in files."""
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, abs_tol=1e-4)
    return a == b


def _shown(value: Any) -> str:
    return (
        "(" + ", ".join(map(str, value)) + ")"
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def saved(
    content: Mapping[str, Any], spec: Mapping[str, Any], earlier: Mapping[str, Any], where: str
) -> Facts:
    """The values in a model folder; `earlier` are of folders of the first versions, with `resize_mode` in the spec.

    Raises `UserError`, which begins with `where`, for values that are missing or no valid setting.
    """
    kept = content.get(SAVED)
    if kept is None:
        values = {**DEFAULTS, **{key: earlier[key] for key in KEYS if earlier.get(key) is not None}}
        kept = {"values": values, "sources": {}}
    values, sources = (kept.get(k) if isinstance(kept, Mapping) else None for k in ("values", "sources"))
    if not isinstance(values, Mapping) or not isinstance(sources, Mapping):
        raise UserError(
            f"{where}: {SAVED} has no values, or no sources of them; restore the folder from a copy"
        )
    if missing := [key for key in (*NEEDED, "crop_pct") if values.get(key) is None]:
        raise UserError(f"{where}: {missing[0]} is missing; restore the folder from a copy")
    told = {key: value for key, value in values.items() if key in KEYS and value is not None}
    for key in told:
        _check(key, [Told(where, told)])
    changed = {key: value for key, value in spec.items() if not same(value, told.get(key))}
    named = {key: str(sources.get(key, "saved with this model")) for key in told}
    return Facts({**told, **changed}, {**named, **dict.fromkeys(changed, SPEC)})
