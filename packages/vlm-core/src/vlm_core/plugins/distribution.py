"""Location of an installed distribution."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from urllib.parse import unquote, urlparse


@cache
def origin(distribution: str) -> str:
    """`/folder (editable)` for an editable installation, else the folder of the installed files."""
    try:
        package = Distribution.from_name(distribution)
    except PackageNotFoundError:
        return "not installed"
    try:
        direct_url = json.loads(package.read_text("direct_url.json") or "{}")
    except ValueError:
        direct_url = {}
    if direct_url.get("dir_info", {}).get("editable"):
        return f"{unquote(urlparse(direct_url['url']).path)} (editable)"
    return str(Path(str(package.locate_file(""))).resolve())
