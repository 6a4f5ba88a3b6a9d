"""The same weights through timm, open_clip and transformers give the same features.

`pytest tests/encoders/test_same_weights.py --log-cli-level=INFO | grep against` prints the largest
relative errors, which docs/checkpoints.md quotes.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from same_weights import FAMILIES, SIDE, dinov2_registers, siglip, siglip2_naflex
from torch import Tensor

from vlm_core.plugins.config import EncoderConfig

log = logging.getLogger(__name__)


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest feature."""
    return float((found - expected).abs().max() / expected.abs().max())


def features(config: EncoderConfig, layer: int, pixels: Tensor, **changes: object) -> Tensor:
    with torch.no_grad():
        return config.model_copy(update={"layer": layer, **changes}).build()(pixels)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_features(family: str, tmp_path: Path) -> None:
    routes = FAMILIES[family](tmp_path)
    pixels = torch.rand(2, 3, SIDE, SIDE)
    for (one, first), (other, second) in pairwise(routes.items()):
        errors = [error(features(second, k, pixels), features(first, k, pixels)) for k in (-2, -1)]
        log.info("%s: %s against %s: %.1e", family, other, one, max(errors))
        assert max(errors) < 2e-6, (one, other)


def test_a_difference_would_show(tmp_path: Path) -> None:
    """Neighbouring blocks, and the exact GELU in place of its approximation, are told apart."""
    first = siglip(tmp_path)["timm"]
    pixels = torch.rand(2, 3, SIDE, SIDE)
    assert error(features(first, -1, pixels), features(first, -2, pixels)) > 0.05
    exact = features(first, -2, pixels, model_args={**first.model_args, "act_layer": "gelu"})
    found = error(exact, features(first, -2, pixels))
    log.info("SigLIP: exact GELU against tanh: %.1e", found)
    assert found > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", [siglip, dinov2_registers, siglip2_naflex])
def test_another_size_is_near(family: Any, tmp_path: Path) -> None:
    """Each library resamples position embeddings in its own way; what comes of it is near, not equal."""
    routes = family(tmp_path)
    pixels = torch.rand(2, 3, 48, 48)
    found = error(*(features(routes[k], -2, pixels, image_size=48) for k in ("transformers", "timm")))
    log.info("%s at 1.5 times the size: transformers against timm: %.1e", family.__name__, found)
    assert found < 0.2
