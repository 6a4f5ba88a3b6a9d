"""Preprocessing and activation of a timm tower's weights: from the configs beside them, else from timm's tags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from timm.models import PretrainedCfg
from torch import nn

from vlm_core.errors import UserError
from vlm_core.io.files import read_json
from vlm_encoders.weights.activations import activation_of
from vlm_encoders.weights.checkpoint_configs import ARCHITECTURE, CONFIG, of_timm, part, values_beside
from vlm_encoders.weights.checkpoints import locate
from vlm_encoders.weights.pretrained_config import KEYS, NEEDED, ResolvedValues, SourceValues, resolve


class Source(NamedTuple):
    """Source of a tower's weights: a file or folder `weights`, the published weights if `pretrained`, or random values.

    `config` is the `pretrained_cfg` if `model` is a repository or folder. Files may be missing unless `required`.
    """

    model: str
    name: str
    config: Mapping[str, Any] | None
    pretrained: bool
    weights: str | None
    required: bool


def resolve_values(trunk: nn.Module, source: Source, spec: Mapping[str, Any]) -> ResolvedValues:
    """Each value and its source; raises `UserError` if files or tags differ and the spec does not set the key."""
    architecture, activation = source.name.partition(".")[0], activation_of(trunk)
    sources = (
        values_beside(source.weights, required=source.required)
        if source.weights and not spec.keys() >= set(NEEDED)
        else []
    )
    sources = [_check_tower(s, architecture, source.model, activation) for s in sources]
    size = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if size:
        sources.insert(0, SourceValues(f"the architecture {architecture}", {"image_size": tuple(size)}))
    published = _published(source, architecture, activation)
    return resolve(f"timm's {source.model}", KEYS, spec, sources, published)


def _check_tower(source: SourceValues, architecture: str, model: str, activation: str | None) -> SourceValues:
    """Raise `UserError` for a config of another architecture; add the activation that this architecture implies."""
    name = source.values.get(ARCHITECTURE, architecture)
    if name != architecture:
        raise UserError(
            f"timm's {model}: {source.where} is of {name}, not of {architecture}: set model: {name}, or put the "
            f"weights into a folder of their own, or give {', '.join(NEEDED)} in the spec"
        )
    if ARCHITECTURE in source.values and activation and "activation" not in source.values:
        return SourceValues(source.where, {**source.values, "activation": activation})
    return source


def _published(source: Source, architecture: str, activation: str | None) -> list[SourceValues]:
    """timm's values for the weights of `model`, else for the tag in the name, else for every tag."""
    if source.config is not None:
        return [
            SourceValues(
                source.model,
                _tag_values(PretrainedCfg(**source.config), activation, source.model, source.config),
            )
        ]
    random = not source.pretrained and source.weights is None
    cfg = timm.get_pretrained_cfg(source.name) if "." in source.name or random or source.pretrained else None
    if cfg is not None:
        where = f"timm's {architecture}.{cfg.tag}" if cfg.tag else f"timm's {architecture}"
        return [
            SourceValues(
                f"{where}, though values are random" if random else where, _tag_values(cfg, activation, where)
            )
        ]
    names = timm.list_pretrained(f"{architecture}.*")
    return [
        SourceValues(f"timm's {n}", _tag_values(cfg, activation, n))
        for n in names
        if (cfg := timm.get_pretrained_cfg(n))
    ]


def _tag_values(
    cfg: PretrainedCfg, activation: str | None, where: str, only: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The values of one tag; timm marks weights trained with QuickGELU in a note."""
    values = of_timm(cfg.to_dict() if only is None else only, where)
    quick_gelu = any("natively QuickGELU" in note for note in cfg.notes or ())
    return values | ({"activation": "quick_gelu" if quick_gelu else activation} if activation else {})


def arguments_beside(weights: str, name: str, *, required: bool) -> dict[str, Any]:
    """`model_args` of the config.json next to the weights, if it is of this architecture."""
    try:
        folder = locate(weights).parent
    except UserError:
        if required:
            raise
        return {}
    path: Path = folder / CONFIG
    content = read_json(path) if path.is_file() else {}
    same = str(content.get("architecture", "")).partition(".")[0] == name.partition(".")[0]
    return part(content, "model_args", str(path)) if same else {}
