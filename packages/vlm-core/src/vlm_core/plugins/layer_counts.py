"""Limits on numbers of layers, labels and the like in config files: libraries loop over them when building a model.

If there are weight files beside a config, `vlm_core.model_folder.load` also compares the model with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError, shown
from vlm_core.io.files import read_json

MAX_LAYERS = 1024
MAX_COUNT = 1 << 16
"""Limit of labels, experts, heads and the like."""
_LAYERS = re.compile(
    r"(^|_)(num|nb|n)_(\w+_)?(layers?|blocks?|stages|hidden_groups)$|(^|_)(depths?|layers?|blocks?)$"
)
_COUNTS = re.compile(r"(^|_)(num|nb|n)_(\w+_)?(labels|experts|heads?|classes|groups)$")
"""Key names in configs of transformers, timm and open_clip."""


def check_layers(config: Mapping[str, Any], where: str | Path) -> None:
    """Raise `UserError` for a number of layers, labels or the like above its limit, at any depth of the config."""
    stack: list[tuple[str, Any]] = [("", config)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping):
            stack += [(str(inner_key), inner) for inner_key, inner in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(key, inner) for inner in value]
        elif isinstance(value, int | float):
            _check(key, value, where)


def _check(key: str, value: float, where: str | Path) -> None:
    if _LAYERS.search(key) and not 0 <= value <= MAX_LAYERS:
        raise UserError(f"{where}: {key} is {shown(value)}; expected a number from 0 to {MAX_LAYERS}")
    if _COUNTS.search(key) and value > MAX_COUNT:
        raise UserError(f"{where}: {key} is {shown(value)}; at most {MAX_COUNT} is possible")


def check_config_file(folder: str | Path, name: str = "config.json") -> None:
    """`check_layers` for the config file of a local folder, if there is one."""
    path = Path(folder) / name
    if Path(folder).is_dir() and path.exists():
        check_layers(read_json(path), path)
