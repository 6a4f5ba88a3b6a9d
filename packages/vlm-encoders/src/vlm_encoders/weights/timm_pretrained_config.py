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
from vlm_encoders.weights.checkpoint_configs import ARCHITECTURE, CONFIG, beside, of_timm, part
from vlm_encoders.weights.checkpoints import locate
from vlm_encoders.weights.pretrained_config import KEYS, NEEDED, Facts, Told, settle


class Source(NamedTuple):
    """Where a tower's weights come from: `weights` a file or folder, `pretrained` what `model` publishes, or neither.

    `config` is the `pretrained_cfg` of `model`, if that is a repository or a folder. Files must be `there` to be read.
    """

    model: str
    name: str
    config: Mapping[str, Any] | None
    pretrained: bool
    weights: str | None
    there: bool


def tower_facts(trunk: nn.Module, source: Source, spec: Mapping[str, Any]) -> Facts:
    """Each value and its source; raises `UserError` if files or tags differ and the spec does not set the key."""
    architecture, own = source.name.partition(".")[0], activation_of(trunk)
    told = (
        beside(source.weights, there=source.there)
        if source.weights and not spec.keys() >= set(NEEDED)
        else []
    )
    told = [_of_this(one, architecture, source.model, own) for one in told]
    size = getattr(getattr(trunk, "patch_embed", None), "img_size", None)
    if size:
        told.insert(0, Told(f"the architecture {architecture}", {"image_size": tuple(size)}))
    published = _published(source, architecture, own)
    return settle(f"timm's {source.model}", KEYS, spec, told, published)


def _of_this(told: Told, architecture: str, model: str, own: str | None) -> Told:
    """Refuse a config of another architecture; one of this architecture implies its activation."""
    named = told.facts.get(ARCHITECTURE, architecture)
    if named != architecture:
        raise UserError(
            f"timm's {model}: {told.where} is of {named}, not of {architecture}: name model: {named}, or put the "
            f"weights into a folder of their own, or give {', '.join(NEEDED)} in the spec"
        )
    if ARCHITECTURE in told.facts and own and "activation" not in told.facts:
        return Told(told.where, {**told.facts, "activation": own})
    return told


def _published(source: Source, architecture: str, own: str | None) -> list[Told]:
    """timm's own values: of `model`'s weights, else of the tag in the name, else of every tag."""
    if source.config is not None:
        return [
            Told(
                source.model, _facts_of_tag(PretrainedCfg(**source.config), own, source.model, source.config)
            )
        ]
    random = not source.pretrained and source.weights is None
    cfg = timm.get_pretrained_cfg(source.name) if "." in source.name or random or source.pretrained else None
    if cfg is not None:
        where = f"timm's {architecture}.{cfg.tag}" if cfg.tag else f"timm's {architecture}"
        return [
            Told(f"{where}, though values are random" if random else where, _facts_of_tag(cfg, own, where))
        ]
    names = timm.list_pretrained(f"{architecture}.*")
    return [
        Told(f"timm's {n}", _facts_of_tag(cfg, own, n)) for n in names if (cfg := timm.get_pretrained_cfg(n))
    ]


def _facts_of_tag(
    cfg: PretrainedCfg, own: str | None, where: str, only: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The values of one tag; timm notes which weights were trained with QuickGELU."""
    facts = of_timm(cfg.to_dict() if only is None else only, where)
    noted = any("natively QuickGELU" in note for note in cfg.notes or ())
    return facts | ({"activation": "quick_gelu" if noted else own} if own else {})


def arguments_beside(weights: str, name: str, *, there: bool) -> dict[str, Any]:
    """`model_args` of the config.json beside the weights, if it is of this architecture."""
    try:
        folder = locate(weights).parent
    except UserError:
        if there:
            raise
        return {}
    path: Path = folder / CONFIG
    content = read_json(path) if path.is_file() else {}
    same = str(content.get("architecture", "")).partition(".")[0] == name.partition(".")[0]
    return part(content, "model_args", str(path)) if same else {}
