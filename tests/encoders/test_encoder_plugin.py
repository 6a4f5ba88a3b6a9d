"""The plugin is light, its configs are strict, and a missing library is named."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from vlm_core.errors import UserError
from vlm_core.plugins import EncoderConfig
from vlm_core.plugins.registry import installed
from vlm_encoders import OpenClipConfig, TimmConfig, TransformersConfig

CONFIGS = [TimmConfig, OpenClipConfig, TransformersConfig]


def test_plugin_imports_no_library() -> None:
    code = (
        "import sys, vlm_encoders.plugin as p; p.vlm_encoders(); "
        "heavy = 'torch', 'numpy', 'PIL', 'timm', 'open_clip', 'transformers'; "
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("config", CONFIGS)
def test_registered(config: type[EncoderConfig]) -> None:
    assert installed().get("encoder", config.type_name()) is config


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "wrong",
    [{}, {"model": ""}, {"model": "x", "layer": "-2"}, {"model": "x", "image_size": 0}, {"modle": "x"}],
)
def test_strict(config: type[EncoderConfig], wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config.model_validate(wrong)


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_and_label(config: type[EncoderConfig]) -> None:
    made = config.model_validate({"model": "some/model", "layer": -1, "resize_mode": "pad"})
    assert config.model_validate(made.model_dump(mode="json")) == made
    assert made.label() == f"{config.type_name()} some/model"


@pytest.mark.parametrize(
    ("config", "library", "extra"),
    [
        (TimmConfig, "timm", "timm"),
        (OpenClipConfig, "open_clip", "open-clip"),
        (TransformersConfig, "transformers", "transformers"),
    ],
)
def test_missing_library(
    config: type[EncoderConfig], library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}.*pip install 'vlm-encoders\[{extra}\]'"):
        config.model_validate({"model": "x"}).build(weights=False)
