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
from vlm_encoders.weights.preprocessor_config import facts_of
from vlm_encoders.weights.pretrained_config import KEYS, SAVED, Facts, Told, saved, settle, spec_keys
from vlm_encoders.weights.transformers_files import CONFIG, PREPROCESSOR


def build_transformers(
    *,
    model: str,
    weights: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
    layer: int | None = None,
    assets: Path | None = None,
    **facts: Any,
) -> Tower:
    """Load the tower in float32, or build it from its config alone. `facts` are the keys of a spec that override it.

    Raises `UserError` for what is missing, does not fit or would run code of a repository.
    """
    given = spec_keys(facts)
    if assets is None:
        check_indexes(Path(model))
    else:
        refuse_references(assets)
    remote = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    if trust_remote_code:
        remote["code_revision"] = revision
    settings = None
    if assets is None:
        settings = files.preprocessor(model, remote, needed=not given.keys() >= {"mean", "std"})
    inner, report = files.pretrained(model, remote) if weights else files.random(str(assets or model), remote)
    own, staged = _own_size(inner.config), in_stages(inner.config)
    told = _saved(assets, given) if assets else _told(model, inner, settings, remote, given)
    size = told.get("image_size") or own
    if size is None:
        raise UserError(f"{model}: neither {CONFIG} nor {PREPROCESSOR} tells image_size; give it in the spec")
    if activation := told.get("activation"):
        set_activation(inner, activation, told.sources["activation"])
    sources, auto_map = repository_code({"AutoConfig": type(inner.config), "AutoModel": type(inner)})
    config = with_auto_map(json.loads(inner.config.to_json_string(use_diff=False)), auto_map)
    again = {CONFIG: config, PREPROCESSOR: _settings(told), **sources}
    kind: Any = TransformersMaps if staged else partial(TransformersTower, own_size=own or pair(size))
    tower = kind(inner, image_size=pair(size), layer=layer, assets=again, **told.arguments())
    files.check(inner, report, None if staged else tower.blocks, model)
    if weights:
        copy_from_mapped_files(tower)
    return tower.float()


def _told(
    model: str, inner: Any, settings: dict[str, Any] | None, remote: dict[str, Any], spec: Mapping[str, Any]
) -> Facts:
    """config.json tells size and activation, the preprocessor's file the rest."""
    own, present = _own_size(inner.config), activation_of(inner)
    size = {"image_size": own} if own else {}
    written = "image_size" in of_transformers(files.config_file(model, remote))
    built = {"activation": present} if present else {}
    config = Told(f"{model} ({CONFIG})", built | (size if written or not in_stages(inner.config) else {}))
    where = f"{model} ({PREPROCESSOR})"
    told = {} if settings is None else facts_of(settings, where)
    if not (told.keys() | spec.keys()) >= {"mean", "std"}:
        raise UserError(
            f"{model}: its {PREPROCESSOR} has no image_mean and image_std; give mean and std in the spec"
        )
    return settle(
        model,
        KEYS,
        spec,
        [config, Told(where, told)],
        [Told(f"{type(inner.config).__name__}'s default", size)],
    )


def _settings(told: Facts) -> dict[str, Any]:
    """What a model folder keeps, and in the layout that folders have had from the first version on."""
    constants = {"image_mean": list(told["mean"]), "image_std": list(told["std"])}
    return {**constants, "interpolation": told["interpolation"], SAVED: told.content()}


def _saved(assets: Path, spec: Mapping[str, Any]) -> Facts:
    content = read_asset(assets, PREPROCESSOR)
    names = {"mean": "image_mean", "std": "image_std", "interpolation": "interpolation", "image_size": "size"}
    earlier = {key: content.get(name) for key, name in names.items()}
    if size := _own_size(SimpleNamespace(**read_asset(assets, CONFIG))):
        earlier["image_size"] = size
    return saved(content, spec, earlier, str(assets / PREPROCESSOR))


def _own_size(config: Any) -> tuple[int, int] | None:
    """(height, width) the tower was trained at; free-aspect models say it as a number of patches."""
    if size := getattr(config, "image_size", None):
        return pair(size)
    if patches := getattr(config, "num_patches", None):
        side = round(patches**0.5) * config.patch_size
        return side, side
    return None
