"""Building towers of transformers from a hub id or a folder; of dual models (CLIP, SigLIP) only the vision half."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlm_core.errors import UserError
from vlm_core.model_folder.published_files import check_indexes
from vlm_core.model_folder.weights import copy_from_mapped_files
from vlm_core.plugins.local_code import refuse_references, repository_code, with_auto_map
from vlm_encoders.towers.tower import Tower, read_asset
from vlm_encoders.towers.transformers_tower import TransformersMaps, TransformersTower, in_stages, pair
from vlm_encoders.weights import transformers_files as files
from vlm_encoders.weights.activations import activation_of, set_activation
from vlm_encoders.weights.checkpoint_configs import of_transformers
from vlm_encoders.weights.preprocessor_config import read_values
from vlm_encoders.weights.pretrained_config import (
    KEYS,
    SAVED,
    ResolvedValues,
    SourceValues,
    resolve,
    saved,
    spec_values,
)
from vlm_encoders.weights.transformers_files import CONFIG, PREPROCESSOR


def build_transformers(
    *,
    model: str,
    weights: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
    layer: int | None = None,
    assets: Path | None = None,
    **overrides: Any,
) -> Tower:
    """Load the tower in float32; without `weights` build it from its configs alone.

    `overrides` (keys of the spec) replace values of the configs. Raises `UserError` for missing files, tensors that
    don't fit, and a repository that needs its own code.
    """
    spec = spec_values(overrides)
    if assets is None:
        check_indexes(Path(model))
    else:
        refuse_references(assets)
    remote = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    if trust_remote_code:
        remote["code_revision"] = revision
    settings = None
    if assets is None:
        settings = files.preprocessor(model, remote, needed=not spec.keys() >= {"mean", "std"})
    inner, report = files.pretrained(model, remote) if weights else files.random(str(assets or model), remote)
    trained_size, staged = _trained_size(inner.config), in_stages(inner.config)
    values = _saved(assets, spec) if assets else _resolve(model, inner, settings, remote, spec)
    size = values.get("image_size") or trained_size
    if size is None:
        raise UserError(f"{model}: neither {CONFIG} nor {PREPROCESSOR} has image_size; give it in the spec")
    if activation := values.get("activation"):
        set_activation(inner, activation, values.sources["activation"])
    sources, auto_map = repository_code({"AutoConfig": type(inner.config), "AutoModel": type(inner)})
    config = with_auto_map(json.loads(inner.config.to_json_string(use_diff=False)), auto_map)
    files_to_save = {CONFIG: config, PREPROCESSOR: _settings(values), **sources}
    kind: Any = (
        TransformersMaps if staged else partial(TransformersTower, trained_size=trained_size or pair(size))
    )
    tower = kind(inner, image_size=pair(size), layer=layer, assets=files_to_save, **values.arguments())
    files.check(inner, report, None if staged else tower.blocks, model)
    if weights:
        copy_from_mapped_files(tower)
    return tower.float()


def _resolve(
    model: str, inner: Any, settings: dict[str, Any] | None, remote: dict[str, Any], spec: Mapping[str, Any]
) -> ResolvedValues:
    """Size and activation come from config.json, the other values from preprocessor_config.json."""
    trained_size, present = _trained_size(inner.config), activation_of(inner)
    size = {"image_size": trained_size} if trained_size else {}
    written = "image_size" in of_transformers(files.config_file(model, remote))
    built = {"activation": present} if present else {}
    config = SourceValues(
        f"{model} ({CONFIG})", built | (size if written or not in_stages(inner.config) else {})
    )
    where = f"{model} ({PREPROCESSOR})"
    values = {} if settings is None else read_values(settings, where)
    if not (values.keys() | spec.keys()) >= {"mean", "std"}:
        raise UserError(
            f"{model}: its {PREPROCESSOR} has no image_mean and image_std; give mean and std in the spec"
        )
    return resolve(
        model,
        KEYS,
        spec,
        [config, SourceValues(where, values)],
        [SourceValues(f"{type(inner.config).__name__}'s default", size)],
    )


def _settings(values: ResolvedValues) -> dict[str, Any]:
    """The preprocessor_config.json of a model folder; the first keys are those that earlier versions read."""
    constants = {"image_mean": list(values["mean"]), "image_std": list(values["std"])}
    return {**constants, "interpolation": values["interpolation"], SAVED: values.content()}


def _saved(assets: Path, spec: Mapping[str, Any]) -> ResolvedValues:
    content = read_asset(assets, PREPROCESSOR)
    names = {"mean": "image_mean", "std": "image_std", "interpolation": "interpolation", "image_size": "size"}
    earlier = {key: content.get(name) for key, name in names.items()}
    if size := _trained_size(SimpleNamespace(**read_asset(assets, CONFIG))):
        earlier["image_size"] = size
    return saved(content, spec, earlier, str(assets / PREPROCESSOR))


def _trained_size(config: Any) -> tuple[int, int] | None:
    """(height, width) the tower was trained at; models with free aspect ratio state a number of patches."""
    if size := getattr(config, "image_size", None):
        return pair(size)
    if patches := getattr(config, "num_patches", None):
        side = round(patches**0.5) * config.patch_size
        return side, side
    return None
