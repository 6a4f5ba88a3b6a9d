"""Types of the command line's arguments, for argparse."""

from __future__ import annotations

import argparse
import re
from ipaddress import ip_network

from vlm_core.cli.common import count
from vlm_core.errors import shown

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def size(text: str) -> int:
    """Argument type: bytes, as `2000000`, `2MB` or `2MiB`."""
    match = re.fullmatch(r"([0-9]{1,15})\s*(|[kmg]i?)b?", text.lower(), re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size, such as 64MiB, got {shown(text)}")
    return int(match[1]) * _UNITS[match[2]]


def seconds(text: str, most: int = 86_400) -> float:
    """Argument type: seconds, above 0 and at most `most`."""
    if not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,6})?", text, re.ASCII) or not 0 < float(text) <= most:
        raise argparse.ArgumentTypeError(f"expected seconds, above 0 and at most {most}, got {shown(text)}")
    return float(text)


def seconds_or_never(text: str) -> float:
    """Argument type: as `seconds`, or 0."""
    if text == "0":
        return 0.0
    try:
        return seconds(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; 0 stands for never") from None


def origin(text: str) -> str:
    """Argument type: an origin, as browsers send it."""
    if not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", text):
        raise argparse.ArgumentTypeError(
            f"expected an origin in lower case without a path, such as https://example.org, got {shown(text)}"
        )
    return text


def host_pattern(text: str) -> str:
    """Argument type: a host, perhaps with a port, or with `*.` for all names below a domain."""
    if not re.fullmatch(r"(\*|(\*\.)?[A-Za-z0-9.\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", text):
        raise argparse.ArgumentTypeError(
            f"expected a host, such as example.org, *.example.org or example.org:8443, got {shown(text)}"
        )
    return text.lower()


def network(text: str) -> str:
    """Argument type: an address, or a network such as 10.0.0.0/8."""
    try:
        return str(ip_network(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected an address, or a network such as 10.0.0.0/8, got {shown(text)}"
        ) from None


def port(text: str) -> int:
    """Argument type: a port; 0 stands for any free one."""
    return count(text, most=65_535, least=0)
