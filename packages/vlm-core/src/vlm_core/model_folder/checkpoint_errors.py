"""Wording of checkpoint errors: the number of tensors, and the first names."""

from __future__ import annotations

from collections.abc import Iterable

UNSAFE = "damaged, or not plain tensors but objects that could run code when loaded; get it as safetensors"


def shape_of(shape: Iterable[int]) -> str:
    """`2560×4`, or `scalar`."""
    return "×".join(map(str, shape)) or "scalar"


def listed(what: str, names: Iterable[str], noun: str = "tensor") -> str:
    """`4 tensors <what> (a, b, c, …)`; empty without names; without a noun if `noun` is empty."""
    names = list(names)
    if not names:
        return ""
    counted = f"{len(names)} {noun}{'s' if len(names) > 1 else ''}" if noun else str(len(names))
    more = ", …" if len(names) > 3 else ""
    return f"{counted} {what} ({', '.join(names[:3])}{more})"
