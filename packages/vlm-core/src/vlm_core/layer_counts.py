"""Numbers of layers in configs of other libraries, which make a list of that length before anything else can look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError, shown
from vlm_core.files import read_json

MAX_LAYERS = 1024
NAMES = frozenset(
    ["num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth", "depths",
     "num_encoder_layers", "num_decoder_layers", "num_hidden_groups", "layers"]
)  # fmt: skip
"""What transformers and timm call them."""


def check_layers(config: Mapping[str, Any], where: str | Path) -> None:
    """Raise `UserError` for a number of layers below 0 or above `MAX_LAYERS`, also in configs inside of this one."""
    for key, value in config.items():
        if key in NAMES:
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(number, int | float) and not 0 <= number <= MAX_LAYERS for number in numbers):
                raise UserError(f"{where}: {key} is {shown(value)}; expected a number from 0 to {MAX_LAYERS}")
        if isinstance(value, Mapping):
            check_layers(value, where)


def check_config_file(folder: str | Path, name: str = "config.json") -> None:
    """Check the config of a local folder before its library reads it; nothing where there is none."""
    path = Path(folder) / name
    if Path(folder).is_dir() and path.exists():
        check_layers(read_json(path), path)
