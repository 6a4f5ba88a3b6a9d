"""From a hub id or a folder to a tower of transformers; of dual models (CLIP, SigLIP) the vision half alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_encoders import transformers_files as files
from vlm_encoders.tower import Tower, read_asset
from vlm_encoders.transformers_files import CONFIG, PREPROCESSOR
from vlm_encoders.transformers_tower import TransformersMaps, TransformersTower, in_stages, pair
from vlm_encoders.transforms import BICUBIC


def build_transformers(
    *,
    model: str,
    weights: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layer: int | None = None,
    image_size: int | None = None,
    fit: str = "resize",
    interpolation: str | None = None,
    assets: Path | None = None,
) -> Tower:
    """Load the tower in float32, or build it from its config alone.

    Raises `UserError` for what is missing, does not fit or would run code of a repository.
    """
    remote = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    if trust_remote_code:
        remote["code_revision"] = revision
    read = partial(files.preprocessor, model, remote, mean, std)
    given = read_asset(assets, PREPROCESSOR) if assets else read()
    inner, report = files.pretrained(model, remote) if weights else files.random(str(assets or model), remote)
    assets_again = {CONFIG: json.loads(inner.config.to_json_string(use_diff=False)), PREPROCESSOR: given}
    own = _own_size(inner.config, given)
    size = pair(image_size) if image_size else own
    if size is None:
        raise UserError(f"{model}: neither {CONFIG} nor {PREPROCESSOR} tells image_size; give it in the spec")
    staged = in_stages(inner.config)
    kind: Any = TransformersMaps if staged else partial(TransformersTower, own_size=own or size)
    tower = kind(
        inner,
        image_size=size,
        layer=layer,
        mean=mean or given["image_mean"],
        std=std or given["image_std"],
        fit=fit,
        interpolation=interpolation or given.get("interpolation", BICUBIC),
        assets=assets_again,
    )
    files.check(inner, report, None if staged else tower.blocks, model)
    return tower.float()


def _own_size(config: Any, preprocessor: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) the tower was trained at; free-aspect models say it as a number of patches."""
    if size := getattr(config, "image_size", None):
        return pair(size)
    if patches := getattr(config, "num_patches", None):
        side = round(patches**0.5) * config.patch_size
        return side, side
    return pair(size) if (size := preprocessor.get("size")) else None
