"""Preprocessing and activation of pretrained weights: each value from the spec, a config file or a published tag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vlm_core.errors import UserError
from vlm_encoders.weights.preprocessor_config import REFUSED

SAVED = "preprocessing"
"""The key of these values in the config of a saved encoder."""
NEEDED = ("mean", "std", "interpolation", "resize_mode")
KEYS = (*NEEDED, "crop_pct", "activation", "image_size")
"""All values; each is also a key of the spec."""
DEFAULTS: dict[str, Any] = {"interpolation": "bicubic", "resize_mode": "resize", "crop_pct": 1.0}
SPEC = "the spec"
MAX_SIDE = 8192
"""Largest side of an image in pixels."""


class SourceValues(NamedTuple):
    """The values of one source, and the name of the source in messages."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ResolvedValues:
    """Values by key of the spec, and the source of each."""

    values: dict[str, Any]
    sources: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def content(self) -> dict[str, Any]:
        """JSON for a model folder; `saved` reads it."""
        return {"values": self.values, "sources": self.sources}

    def arguments(self) -> dict[str, Any]:
        """Arguments of `Tower`."""
        names = (*NEEDED, "crop_pct")
        return {name: self.values[name] for name in names} | {"sources": self.sources}


def spec_values(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the spec sets, with `image_size` as (height, width); raises `TypeError` for an unknown key."""
    if unknown := keys.keys() - set(KEYS):
        raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
    values = {key: value for key, value in keys.items() if value is not None}
    if "image_size" in values:
        values["image_size"] = (values["image_size"],) * 2
    return values


def resolve(
    what: str,
    keys: Iterable[str],
    spec: Mapping[str, Any],
    from_files: Sequence[SourceValues],
    published: Sequence[SourceValues] = (),
) -> ResolvedValues:
    """Each key from the spec, else `from_files` beside the weights, else from `published` tags, else a default.

    Raises `UserError` if two files differ, if no file has the value and tags differ, or if no source has it; the
    message names the values and the key to set in the spec. Only keys of `NEEDED` must have a source.
    """
    resolved = ResolvedValues({})
    for key in keys:
        if key in spec:
            resolved.values[key], resolved.sources[key] = spec[key], SPEC
            continue
        for sources, hint in ((from_files, ""), (published, " and no file beside the weights decides")):
            named = [SourceValues(s.where, {key: s.values[key]}) for s in sources if key in s.values]
            if named:
                _check(key, named)
                _agree(what, key, named, hint)
                resolved.values[key], resolved.sources[key] = named[0].values[key], _where(named)
                break
        else:
            _default(what, key, resolved, from_files)
    return resolved


def _check(key: str, sources: Sequence[SourceValues]) -> None:
    """Raise `UserError` for a value that is no valid setting."""
    fits, expected = _VALID.get(key, (None, ""))
    for source in sources:
        if fits and not fits(source.values[key]):
            raise UserError(
                f"{source.where} says {key} {_shown(source.values[key])}; expected {expected}; correct it, or give "
                f"{key} in the spec"
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


def _agree(what: str, key: str, sources: Sequence[SourceValues], hint: str) -> None:
    first = sources[0]
    for other in sources[1:]:
        if not same(first.values[key], other.values[key]):
            raise UserError(
                f"{what}: {first.where} says {key} {_shown(first.values[key])}, {other.where} says "
                f"{_shown(other.values[key])}{hint}; give {key} in the spec"
            )


def _default(what: str, key: str, resolved: ResolvedValues, from_files: Sequence[SourceValues]) -> None:
    for source in from_files:
        if key == "resize_mode" and REFUSED in source.values:
            raise UserError(
                f"{what}: {source.values[REFUSED]}; give resize_mode in the spec: resize, pad or crop"
            )
    if key in DEFAULTS:
        resolved.values[key], resolved.sources[key] = DEFAULTS[key], "the default: no source has it"
    elif key in NEEDED:
        raise UserError(f"{what}: no file beside the weights has {key}; give {key} in the spec")


def _where(sources: Sequence[SourceValues]) -> str:
    first, others = sources[0].where, len(sources) - 1
    return f"{first} and {others} more that agree" if others else first


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
) -> ResolvedValues:
    """The values of a saved encoder: `content` is its config, `earlier` the values of a folder without `SAVED`.

    Values of the spec replace them. Raises `UserError`, which begins with `where`, for missing or invalid values.
    """
    record = content.get(SAVED)
    if record is None:
        values = {**DEFAULTS, **{key: earlier[key] for key in KEYS if earlier.get(key) is not None}}
        record = {"values": values, "sources": {}}
    values, sources = (record.get(k) if isinstance(record, Mapping) else None for k in ("values", "sources"))
    if not isinstance(values, Mapping) or not isinstance(sources, Mapping):
        raise UserError(
            f"{where}: {SAVED} has no values, or no sources of them; restore the folder from a copy"
        )
    if missing := [key for key in (*NEEDED, "crop_pct") if values.get(key) is None]:
        raise UserError(f"{where}: {missing[0]} is missing; restore the folder from a copy")
    stored = {key: value for key, value in values.items() if key in KEYS and value is not None}
    for key in stored:
        _check(key, [SourceValues(where, stored)])
    changed = {key: value for key, value in spec.items() if not same(value, stored.get(key))}
    named = {key: str(sources.get(key, "saved with this model")) for key in stored}
    return ResolvedValues({**stored, **changed}, {**named, **dict.fromkeys(changed, SPEC)})
