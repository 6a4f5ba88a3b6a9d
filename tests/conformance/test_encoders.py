"""Every registered encoder passes the suite that third parties use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from third_party_parts import PatchesConfig  # pyright: ignore[reportMissingImports]
from tiny_towers import (  # pyright: ignore[reportMissingImports]
    TINY_OPEN_CLIP,
    TINY_TIMM,
    TINY_TRANSFORMERS,
    tiny_open_clip,
    tiny_timm,
    tiny_transformers,
)

from vlm_core.plugins.config import EncoderConfig
from vlm_core.plugins.registry import installed
from vlm_core.testing import EncoderSuite
from vlm_encoders import FusedConfig

Make = Callable[[Path], EncoderConfig]


pytestmark = pytest.mark.usefixtures("one_thread")


def _timm(name: str) -> Make:
    return lambda _: tiny_timm(name)


def _resized(folder: Path) -> EncoderConfig:
    return tiny_transformers("siglip", folder, image_size=48, resize_mode="pad")


def _fused(folder: Path) -> EncoderConfig:
    return FusedConfig(towers=[tiny_timm("dinov2_registers"), tiny_transformers("siglip", folder, layer=-1)])


CASES: dict[str, dict[str, Make]] = {
    "timm": {name: _timm(name) for name in TINY_TIMM},
    "open-clip": {name: partial(tiny_open_clip, name) for name in TINY_OPEN_CLIP},
    "transformers": {
        **{name: partial(tiny_transformers, name) for name in TINY_TRANSFORMERS},
        "siglip_resized": _resized,
    },
    "fused": {"dinov2_siglip": _fused},
}
"""By registered type: what to call a case, and how to make its config in an empty folder."""


def _suite(title: str, make: Make) -> type[EncoderSuite]:
    def make_config(cls: Any, tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
        return make(tmp_path_factory.mktemp("encoder"))

    return type(title, (EncoderSuite,), {"make_config": classmethod(make_config)})


for _type, _cases in CASES.items():
    for _name, _make in _cases.items():
        _title = f"Test_{_type}_{_name}".replace("-", "_")
        globals()[_title] = _suite(_title, _make)


def test_every_registered_type_has_a_case() -> None:
    registered = [entry for entry in installed().all() if entry.kind == "encoder"]
    assert {entry.name for entry in registered if entry.distribution == "vlm-encoders"} == CASES.keys()


class TestWithoutParameters(EncoderSuite):
    config = PatchesConfig()
