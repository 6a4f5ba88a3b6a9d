"""Times of frames, in seconds and as people write them."""

from __future__ import annotations

import math
import re

from vlm_core.errors import UserError, shown

_CLOCK = re.compile(r"(?:(\d{1,5}):)?(\d{1,5}):([0-5]\d(?:\.\d{1,9})?)", re.ASCII)
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(s|min|h|)", re.ASCII)
_FACTORS = {"": 1, "s": 1, "min": 60, "h": 3600}


def seconds(time: str | float) -> float:
    """Seconds from `01:12:00`, `1:12:00.5`, `72:00`, `90`, `90s`, `5min`, `2h`, or a number.

    Raises `UserError` for anything else, negative and infinite numbers included.
    """
    if isinstance(time, str):
        if clock := _CLOCK.fullmatch(time.strip()):
            hours, minutes, rest = clock.groups()
            if hours is None or int(minutes) < 60:
                return int(hours or 0) * 3600 + int(minutes) * 60 + float(rest)
        if plain := _SECONDS.fullmatch(time.strip()):
            return float(plain[1]) * _FACTORS[plain[2]]
    elif isinstance(time, int | float) and math.isfinite(time) and time >= 0:
        return float(time)
    raise UserError(f"{shown(time)} is no time; write 01:12:00, 72:00 or seconds (90, 90s, 5min, 2h)")


def clock(time: float) -> str:
    """Seconds as `01:12:00`, with hundredths if there are any: `00:00:02.50`."""
    hundredths = round(time * 100)
    whole, rest = divmod(hundredths, 100)
    text = f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{text}.{rest:02d}" if rest else text
