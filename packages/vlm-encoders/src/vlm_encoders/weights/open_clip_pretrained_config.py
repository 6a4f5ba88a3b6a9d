"""Preprocessing and activation of an open_clip tower's weights: from the configs beside them, else from the tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from vlm_core.errors import UserError
from vlm_encoders.weights.checkpoint_configs import ARCHITECTURE, VISION, beside, of_open_clip
from vlm_encoders.weights.pretrained_config import KEYS, NEEDED, Facts, Told, settle

DEFAULTS = {
    "mean": list(OPENAI_DATASET_MEAN),
    "std": list(OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "crop",
}
"""open_clip's values for a model whose config has none."""
_SAME = ("width", "layers", "patch_size", "timm_model_name")


def tower_facts(
    model: str,
    architecture: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    weights: str | None,
    *,
    there: bool,
    spec: Mapping[str, Any],
) -> Facts:
    """Each value and its source. `architecture` is open_clip's `model_cfg`.

    `config` is the open_clip_config.json of a repository or folder, if `model` is one. `weights` is a tag, or a file or
    folder, which must be `there` to be read. Raises `UserError` where files or tags differ and no key decides.
    """
    vision = architecture["vision_cfg"]
    size = vision.get("image_size", 224)
    told = [
        Told(
            f"the architecture {model}",
            {"image_size": (size, size) if isinstance(size, int) else tuple(size)},
        )
    ]
    tags = {} if config is not None else _tags(model, architecture)
    if weights is not None and weights not in tags and not spec.keys() >= set(NEEDED):
        told += [_of_this(one, vision, model) for one in beside(weights, there=there)]
    return settle(
        f"open_clip's {model}", KEYS, spec, told, _published(model, architecture, config, weights, tags)
    )


def _tags(model: str, architecture: Mapping[str, Any]) -> dict[str, Told]:
    found = {}
    for tag in open_clip.list_pretrained_tags_by_model(model):
        cfg = open_clip.get_pretrained_cfg(model, tag)
        content = {
            "preprocess_cfg": cfg,
            "model_cfg": {**architecture, "quick_gelu": cfg.get("quick_gelu", False)},
        }
        where = f"open_clip's tag {tag}"
        found[tag] = Told(where, of_open_clip(content, where))
    return found


def _published(
    model: str,
    architecture: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    weights: str | None,
    tags: Mapping[str, Told],
) -> list[Told]:
    """The values of the tag, of all tags for a file, or of the repository's config with open_clip's defaults."""
    if weights is not None and weights in tags:
        return [tags[weights]]
    if config is not None:
        return [Told(f"{model}, else open_clip's defaults", {**DEFAULTS, **of_open_clip(config, model)})]
    if weights is None:
        own = of_open_clip({"model_cfg": architecture}, model)
        return [Told("open_clip's defaults, as values are random", {**DEFAULTS, **own})]
    return list(tags.values())


def _of_this(told: Told, vision: Mapping[str, Any], model: str) -> Told:
    """Raise `UserError` for a config of another tower."""
    theirs = dict(told.facts.get(VISION, {}))
    if vision.get("timm_model_name") and ARCHITECTURE in told.facts:
        theirs["timm_model_name"] = told.facts[ARCHITECTURE]
    for key in _SAME:
        if key in theirs and theirs[key] != vision.get(key):
            raise UserError(
                f"open_clip's {model}: {told.where} is of another tower, with {key} {theirs[key]} instead of "
                f"{vision.get(key)}: name the model that the weights belong to, or put them into their own folder, "
                f"or give {', '.join(NEEDED)} in the spec"
            )
    return told
