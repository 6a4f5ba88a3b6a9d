"""Vision models of timm: Vision Transformers by block, other models by feature map."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm import models
from timm.models import PretrainedCfg
from torch import Tensor, nn

from vlm_core.errors import UserError, one_line
from vlm_core.io.files import read_json
from vlm_core.model_folder.load import check_plan
from vlm_core.plugins.layer_counts import check_layers
from vlm_encoders.towers.tower import Tower, block_index, nearest, read_asset
from vlm_encoders.weights import checkpoints
from vlm_encoders.weights.activations import activation_of, set_activation
from vlm_encoders.weights.checkpoint_configs import CONFIG, of_timm, part
from vlm_encoders.weights.pretrained_config import SAVED, ResolvedValues, saved, spec_values
from vlm_encoders.weights.timm_pretrained_config import Source, arguments_beside, resolve_values
from vlm_encoders.weights.timm_weights import load_file

ASSET = "timm.json"
HUB, FOLDER = "hf-hub", "local-dir"
_CREATE = frozenset(inspect.signature(timm.create_model).parameters) - {"kwargs"} | {"pretrained_strict"}
"""Arguments of `timm.create_model` itself: sources of weights, options of the library."""


class TimmTower(Tower):
    """A timm model cut after the wanted layer; arguments as `Tower`.

    For Transformers `layer` counts blocks. For other models it counts feature maps as timm's
    `forward_intermediates` does, and None takes what `forward_features` gives.
    """

    def __init__(self, model: nn.Module, *, layer: int | None = None, **kwargs: Any) -> None:
        patches = getattr(model, "patch_embed", None)
        super().__init__(model, any_size=not getattr(patches, "strict_img_size", False), **kwargs)
        self._patches = hasattr(model, "num_prefix_tokens") and hasattr(patches, "dynamic_feat_size")
        self._layer: int | None = None
        if hasattr(model, "num_prefix_tokens") and hasattr(model, "blocks"):
            self._layer = block_index(layer, len(self._part("blocks")))
            self._part("prune_intermediate_layers")([self._layer], prune_norm=True, prune_head=True)
        elif layer is not None:
            self._layer = self._cut(layer)
        self._settle()

    def _part(self, name: str) -> Any:
        """An attribute of the timm model, whose class is known only at run time."""
        return getattr(self.model, name)

    def _cut(self, layer: int) -> int:
        if not hasattr(self.model, "prune_intermediate_layers"):
            kind = type(self.model).__name__
            raise UserError(f"timm's {kind} gives only its last feature map; leave layer out")
        try:
            return self._part("prune_intermediate_layers")([layer])[0]
        except AssertionError as error:
            raise UserError(f"layer {layer} does not exist in this tower: {one_line(error)}") from None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if self._patches:
            return tuple(self._part("patch_embed").dynamic_feat_size((height, width)))
        return self._tried_grid(height, width)

    def _features(self, pixel_values: Tensor) -> Tensor:
        if not self._patches:  # convolutions run about 1.4 times as fast on a CPU in this layout
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if self._layer is None:
            features = self._part("forward_features")(pixel_values)
            channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        else:
            maps = self._part("forward_intermediates")(
                pixel_values, indices=[self._layer], intermediates_only=True
            )
            features, channels_last = maps[0], False
        if features.ndim != 4:
            raise ValueError(f"timm's {type(self.model).__name__} gives no feature map here; name a layer")
        return features if channels_last else features.permute(0, 2, 3, 1).contiguous()


def build_timm(
    *,
    model: str,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    match: Literal["names", "order"] = "names",
    layer: int | None = None,
    load: bool = True,
    assets: Path | None = None,
    **overrides: Any,
) -> TimmTower:
    """Create the whole model, load and resize it, then cut it after `layer`.

    Without `load` no tensors are read, only the configs next to them, whose values `overrides` (keys of the spec)
    replace. Raises `UserError` for an unknown name or argument, a file that doesn't fit, or a failed download.
    """
    spec, saved_model = spec_values(overrides), _saved_model(assets) if assets else {}
    name, config, arguments = _resolve(saved_model.get("model", model))
    if pretrained and model.startswith(FOLDER):
        pretrained, weights = False, model.removeprefix(f"{FOLDER}:")
    if weights is not None and not assets:
        arguments = {**arguments, **arguments_beside(weights, name, required=load)}
    saved_args = saved_model.get("model_args", {})
    arguments = {**arguments, **saved_args, **(model_args or {})}
    _check_arguments(name, arguments)
    if assets:
        _check_agreement(model_args or {}, saved_args, assets)
    if weights is not None and load and not assets:
        files = checkpoints.files(checkpoints.locate(weights))
        check_plan(lambda: _create(name, config, arguments, False), files, f"timm's {model}")
    trunk = _create(name, config, arguments, pretrained and load and not assets)
    if weights is not None and load and not assets:
        load_file(trunk, weights, target=f"timm's {model}", match=match)
    if (model_args or {}).get("act_layer"):
        spec.setdefault("activation", activation_of(trunk))
    if assets:
        values = saved(saved_model, spec, of_timm(saved_model, ASSET), str(assets / ASSET))
    else:
        values = resolve_values(trunk, Source(model, name, config, pretrained, weights, load), spec)
    size = set_size(trunk, values["image_size"], overrides.get("image_size"))
    if activation := values.get("activation"):
        set_activation(trunk, activation, values.sources["activation"])
    return TimmTower(
        trunk,
        layer=layer,
        image_size=size,
        assets={ASSET: _asset(values, name, arguments)},
        **values.arguments(),
    )


def _saved_model(assets: Path) -> dict[str, Any]:
    """The content of `ASSET`, its model name and arguments checked."""
    content, where = read_asset(assets, ASSET), str(assets / ASSET)
    if not isinstance(name := content.get("model"), str) or ":" in name:
        raise UserError(f"{where}: model is {name!r:.60}; expected a model name of timm")
    return {**content, "model_args": part(content, "model_args", where)}


def _check_agreement(model_args: Mapping[str, Any], saved_args: Mapping[str, Any], assets: Path) -> None:
    """Raise `UserError` if the spec's arguments differ from those of the saved tower."""
    if wrong := [key for key, value in model_args.items() if saved_args.get(key) != value]:
        raise UserError(
            f"{assets}: model_args {wrong[0]} differs between the spec and {ASSET}; they describe different models"
        )


def _check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise `UserError` for arguments of `timm.create_model` itself, and for absurd layer counts."""
    if other := sorted(arguments.keys() & _CREATE):
        raise UserError(
            f"timm's {name}: model_args can't hold {', '.join(other)}, which would read other files or change "
            "how timm runs; pretrained: and weights: name weights"
        )
    check_layers(arguments, f"timm's {name}: model_args")


def _asset(values: ResolvedValues, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The config that rebuilds the tower; the first keys are those that earlier versions read."""
    return {
        "mean": list(values["mean"]),
        "std": list(values["std"]),
        "interpolation": values["interpolation"],
        "input_size": [3, *values["image_size"]],
        "model": name,
        "model_args": arguments,
        SAVED: values.content(),
    }


def _resolve(model: str) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
    """timm's name, config of the weights, arguments; a repository or folder has all three, a name only itself."""
    source, _, where = model.partition(":")
    if source not in (HUB, FOLDER):
        return model, None, {}
    try:
        if source == HUB:
            config, name, arguments = models.load_model_config_from_hf(where)
            return name, config, arguments or {}
        return _of_folder(Path(where) / CONFIG)
    except Exception as error:  # hub, network and parser raise various errors
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        raise UserError(
            f"could not get the configuration of timm's {model}: {kind}{one_line(error)}; "
            f"{FOLDER}:<folder> names a local copy with its config.json"
        ) from error


def _of_folder(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """As `_resolve`, from a folder's config.json."""
    content = read_json(path)
    name = content.get("architecture")
    if not isinstance(name, str):
        raise UserError(f"{path}: names no architecture of timm's; it has {', '.join(content) or 'no keys'}")
    weights = part(content, "pretrained_cfg", str(path)) or content
    known = {key: value for key, value in weights.items() if key in PretrainedCfg.__dataclass_fields__}
    return name, known, part(content, "model_args", str(path))


def _create(
    name: str, config: dict[str, Any] | None, arguments: Mapping[str, Any], pretrained: bool
) -> nn.Module:
    """`timm.create_model`; `UserError` for an unknown name, a failed download or a wrong argument."""
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    try:
        return timm.create_model(name, pretrained=pretrained, pretrained_cfg=config, **arguments)
    except Exception as error:  # hub, network and constructors raise various errors
        if pretrained:
            raise UserError(
                f"could not get the weights of timm's {name}: {one_line(error)}; weights: can name a local "
                f"file or folder instead, or model: {FOLDER}:<folder> a copy of the repository"
            ) from error
        raise UserError(f"timm cannot build {name} with {dict(arguments)}: {one_line(error)}") from error


def set_size(model: nn.Module, size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """Resize the tower, position embedding included, to a square of `side` pixels -> (height, width).

    Without `side` it keeps its size, which is `size` for models that don't state one.
    """
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None) or size
    height, width = (side, side) if side else built_for
    if (height, width) != tuple(built_for) and hasattr(model, "set_input_size"):
        try:
            with torch.no_grad():
                getattr(model, "set_input_size")(img_size=(height, width))  # noqa: B009 (unknown to nn.Module)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(f"image_size {side} does not fit this tower: {one_line(error)}") from error
    return height, width
