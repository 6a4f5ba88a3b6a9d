"""Human-readable numbers: counts, bytes, seconds."""

from __future__ import annotations


def amount(number: float) -> str:
    """1234567 -> `1.23 M`."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return str(int(number))


def size(count: float) -> str:
    """Bytes as `5.92 GB`."""
    return amount(count).replace(" B", " G") + "B" if count >= 1e3 else f"{int(count)} B"


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
