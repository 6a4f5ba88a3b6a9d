"""Preprocessing and activation of an open_clip tower's weights: from the configs beside them, else from the tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from vlm_core.errors import UserError
from vlm_encoders.weights.checkpoint_configs import ARCHITECTURE, VISION, of_open_clip, values_beside
from vlm_encoders.weights.pretrained_config import KEYS, NEEDED, ResolvedValues, SourceValues, resolve

DEFAULTS = {
    "mean": list(OPENAI_DATASET_MEAN),
    "std": list(OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "crop",
}
"""open_clip's values for a model whose config has none."""
_SAME = ("width", "layers", "patch_size", "timm_model_name")


def resolve_values(
    model: str,
    architecture: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    weights: str | None,
    *,
    required: bool,
    spec: Mapping[str, Any],
) -> ResolvedValues:
    """Each value and its source. `architecture` is open_clip's `model_cfg`.

    `config` is the open_clip_config.json if `model` is a repository or folder. `weights` is a tag, or a file or folder,
    which may be missing unless `required`. Raises `UserError` if files or tags differ and the spec sets no value.
    """
    vision = architecture["vision_cfg"]
    size = vision.get("image_size", 224)
    sources = [
        SourceValues(
            f"the architecture {model}",
            {"image_size": (size, size) if isinstance(size, int) else tuple(size)},
        )
    ]
    tags = {} if config is not None else _tags(model, architecture)
    if weights is not None and weights not in tags and not spec.keys() >= set(NEEDED):
        sources += [
            _check_tower(source, vision, model) for source in values_beside(weights, required=required)
        ]
    return resolve(
        f"open_clip's {model}", KEYS, spec, sources, _published(model, architecture, config, weights, tags)
    )


def _tags(model: str, architecture: Mapping[str, Any]) -> dict[str, SourceValues]:
    tags = {}
    for tag in open_clip.list_pretrained_tags_by_model(model):
        cfg = open_clip.get_pretrained_cfg(model, tag)
        content = {
            "preprocess_cfg": cfg,
            "model_cfg": {**architecture, "quick_gelu": cfg.get("quick_gelu", False)},
        }
        where = f"open_clip's tag {tag}"
        tags[tag] = SourceValues(where, of_open_clip(content, where))
    return tags


def _published(
    model: str,
    architecture: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    weights: str | None,
    tags: Mapping[str, SourceValues],
) -> list[SourceValues]:
    """The values of the tag, of all tags for a file, or of the repository's config with open_clip's defaults."""
    if weights is not None and weights in tags:
        return [tags[weights]]
    if config is not None:
        return [
            SourceValues(f"{model}, else open_clip's defaults", {**DEFAULTS, **of_open_clip(config, model)})
        ]
    if weights is None:
        values = of_open_clip({"model_cfg": architecture}, model)
        return [SourceValues("open_clip's defaults, as values are random", {**DEFAULTS, **values})]
    return list(tags.values())


def _check_tower(source: SourceValues, vision: Mapping[str, Any], model: str) -> SourceValues:
    """Return `source`, or raise `UserError` if it is the config of another tower."""
    described = dict(source.values.get(VISION, {}))
    if vision.get("timm_model_name") and ARCHITECTURE in source.values:
        described["timm_model_name"] = source.values[ARCHITECTURE]
    for key in _SAME:
        if key in described and described[key] != vision.get(key):
            raise UserError(
                f"open_clip's {model}: {source.where} is of another tower, with {key} {described[key]} instead of "
                f"{vision.get(key)}: name the model that the weights belong to, or put them into their own folder, "
                f"or give {', '.join(NEEDED)} in the spec"
            )
    return source
