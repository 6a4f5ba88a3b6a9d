"""Image towers of open_clip, without the text half."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
from open_clip import model as open_clip_model
from open_clip import pretrained as hub
from torch import Tensor, nn

from vlm_core.errors import UserError, one_line
from vlm_core.io.files import read_json
from vlm_core.model_folder.load import check_plan
from vlm_core.plugins.layer_counts import check_layers
from vlm_encoders.towers.timm_tower import TimmTower, set_size
from vlm_encoders.towers.tower import Tower, block_index, nearest, read_asset
from vlm_encoders.weights import checkpoints, matching
from vlm_encoders.weights.activations import set_activation
from vlm_encoders.weights.checkpoint_configs import of_open_clip
from vlm_encoders.weights.open_clip_pretrained_config import resolve_values
from vlm_encoders.weights.pretrained_config import MAX_SIDE, SAVED, ResolvedValues, saved, spec_values

ASSET = "open_clip_config.json"
HUB, FOLDER, VISUAL = "hf-hub:", "local-dir:", "visual."
RESIZE_MODES = {"resize": "squash", "crop": "shortest", "pad": "longest"}
"""open_clip's name of each `resize_mode`."""


class OpenClipTower(Tower):
    """open_clip's Vision Transformer cut after block `layer`; arguments as `Tower`."""

    def __init__(self, model: nn.Module, *, layer: int | None = None, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self._layer = block_index(layer, len(self._part("transformer").resblocks))
        self._part("prune_intermediate_layers")([self._layer], prune_norm=True, prune_head=True)
        self._settle()

    def _part(self, name: str) -> Any:
        """An attribute of the open_clip model, whose class is known only at run time."""
        return getattr(self.model, name)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self._part("patch_size")
        return height // rows, width // columns

    def _features(self, pixel_values: Tensor) -> Tensor:
        outputs = self._part("forward_intermediates")(
            pixel_values, indices=[self._layer], intermediates_only=True
        )
        return outputs["image_intermediates"][0].permute(0, 2, 3, 1).contiguous()


class OpenClipResNet(Tower):
    """open_clip's ResNet without its attention pooling; `layer` counts stem and stages, 0 to 4."""

    def __init__(self, model: nn.Module, *, layer: int | None = None, **kwargs: Any) -> None:
        super().__init__(model, any_size=True, **kwargs)
        self._layer = block_index(-1 if layer is None else layer, 5)
        self._settle()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._tried_grid(height, width)

    def _features(self, pixel_values: Tensor) -> Tensor:
        parts: Any = self.model
        for stage in [parts.stem, parts.layer1, parts.layer2, parts.layer3, parts.layer4][: self._layer + 1]:
            pixel_values = stage(pixel_values)
        return pixel_values.permute(0, 2, 3, 1).contiguous()


def build_open_clip(
    *,
    model: str,
    pretrained: str | None = None,
    weights: bool = True,
    layer: int | None = None,
    assets: Path | None = None,
    **overrides: Any,
) -> Tower:
    """Build the image tower, load its tensors of the checkpoint, then cut it after `layer`.

    Without `weights` no tensors are read, only the configs next to them, whose values `overrides` (keys of the spec)
    replace. Raises `UserError` for an unknown name or tag, a file that doesn't fit, or a failed download.
    """
    spec = spec_values(overrides)
    if assets:
        config, where = read_asset(assets, ASSET), str(assets / ASSET)
        earlier = of_open_clip({"preprocess_cfg": config.get("preprocess_cfg")}, where)
        values = saved(config, spec, earlier, where)
    else:
        _known(model, pretrained)
        config, values = _resolve(model, pretrained, spec, required=weights)
    model_cfg = _architecture(model, config)
    check_layers(model_cfg, ASSET)
    file = _weight_file(model, pretrained) if weights and not assets else None
    if file:
        check_plan(lambda: _visual(model_cfg, None), [file], f"open_clip's {model}")
    visual, size, tower = _tower(model_cfg, overrides.get("image_size"))
    if file:
        _load(visual, file, f"open_clip's {model}")
    trunk = visual.trunk if tower is TimmTower else visual
    if tower is TimmTower:
        size = set_size(trunk, size, overrides.get("image_size"))
    if activation := values.get("activation"):
        set_activation(trunk, activation, values.sources["activation"])
    files = {ASSET: {**config, SAVED: values.content()}}
    return tower(trunk, layer=layer, image_size=size, assets=files, **values.arguments())


def _tower(model_cfg: dict[str, Any], side: int | None) -> tuple[Any, tuple[int, int], Any]:
    """The image tower, the size it was built for, and the class that wraps it."""
    in_timm = bool(model_cfg["vision_cfg"].get("timm_model_name"))
    visual = _visual(model_cfg, None if in_timm else side)
    built_for = visual.image_size
    size = (built_for, built_for) if isinstance(built_for, int) else tuple(built_for)
    if in_timm:
        return visual, size, TimmTower
    return visual, size, OpenClipTower if hasattr(visual, "transformer") else OpenClipResNet


def _visual(config: dict[str, Any], image_size: int | None) -> Any:
    """The image tower as open_clip builds it; `create_model` would add the text tower."""
    # the checkpoint of the whole model holds the tower's weights
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if ":" in (name := str(vision.get("timm_model_name"))):
        raise UserError(f"{ASSET}: timm_model_name is {name!r:.80}; expected a model name of timm")
    stages = vision.get("layers")
    if isinstance(stages, list) and len(stages) != 4:
        raise UserError(f"{ASSET}: layers is {stages!r:.60}; expected a number, or four")
    if image_size:
        vision["image_size"] = image_size
    try:
        settings = open_clip.CLIPVisionCfg(**vision)
        return open_clip_model._build_vision_tower(
            config["embed_dim"], settings, quick_gelu=config.get("quick_gelu", False)
        )
    except Exception as error:  # constructors raise various errors for invalid values
        raise UserError(f"open_clip cannot build this image tower: {one_line(error)}") from error


def _resolve(
    model: str, pretrained: str | None, spec: Mapping[str, Any], *, required: bool
) -> tuple[dict[str, Any], ResolvedValues]:
    """The open_clip_config.json of this tower, and the preprocessing values of its weights."""
    repository = read_json(_config_file(model)) if model.startswith((HUB, FOLDER)) else None
    architecture = _architecture(model, repository)
    weights = pretrained or (model.removeprefix(FOLDER) if model.startswith(FOLDER) else None)
    values = resolve_values(model, architecture, repository, weights, required=required, spec=spec)
    return _content(architecture, values), values


def _content(architecture: dict[str, Any], values: ResolvedValues) -> dict[str, Any]:
    """An open_clip_config.json without the text tower, with the GELU of the weights."""
    parts = {key: architecture[key] for key in ("embed_dim", "vision_cfg")}
    parts["quick_gelu"] = values.get("activation") == "quick_gelu"
    preprocess = {
        "mean": list(values["mean"]),
        "std": list(values["std"]),
        "interpolation": values["interpolation"],
        "resize_mode": RESIZE_MODES[values["resize_mode"]],
    }
    return {"model_cfg": parts, "preprocess_cfg": preprocess}


def _architecture(model: str, repository: dict[str, Any] | None) -> dict[str, Any]:
    """open_clip's `model_cfg`, from the open_clip_config.json of a repository or folder if `model` is one."""
    if repository is not None:
        cfg = repository.get("model_cfg")
        if not isinstance(cfg, dict) or "embed_dim" not in cfg or not isinstance(cfg.get("vision_cfg"), dict):
            raise UserError(f"{model}: its {ASSET} has no model_cfg with embed_dim and vision_cfg")
        _check_size(cfg["vision_cfg"].get("image_size", 224), model)
        return cfg
    architecture = open_clip.get_model_config(model)
    if architecture is None:
        raise UserError(f"open_clip has no model {model!r}{nearest(model, open_clip.list_models())}")
    return architecture


def _check_size(size: Any, model: str) -> None:
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise UserError(
            f"{model}: its {ASSET} has image_size {size!r:.60}; expected 1 to {MAX_SIDE} pixels, or two sides"
        )


def _config_file(model: str) -> Path:
    if model.startswith(FOLDER):
        file = Path(model.removeprefix(FOLDER)) / ASSET
        if not file.is_file():
            raise UserError(f"{model}: the folder holds no {ASSET}")
        return file
    return _download(model, lambda: hub.download_pretrained_from_hf(model.removeprefix(HUB), filename=ASSET))


def _weight_file(model: str, pretrained: str | None) -> Path | None:
    """The weight file, downloaded if necessary; None if the spec names none."""
    if model.startswith(HUB):
        if pretrained:
            raise UserError(f"{model} brings its own weights; leave pretrained: {pretrained} out")
        return _download(model, lambda: hub.download_pretrained_from_hf(model.removeprefix(HUB)))
    if model.startswith(FOLDER):
        return checkpoints.locate(pretrained or model.removeprefix(FOLDER))
    if not pretrained:
        return None
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if tag:
        return _download(f"{model} {pretrained}", lambda: open_clip.download_pretrained(tag))
    return checkpoints.locate(pretrained)


def _known(model: str, pretrained: str | None) -> None:
    """Raise `UserError` if `pretrained` is neither a tag nor a local path, before anything else is read."""
    if pretrained is None or model.startswith((HUB, FOLDER)) or Path(pretrained).exists():
        return
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and open_clip.get_model_config(model) is not None:
        raise UserError(
            f"pretrained: {pretrained} is neither a file, a folder nor a tag of {model}; tags: "
            f"{', '.join(tags) or 'none'}"
        )


def _download(what: str, fetch: Any) -> Path:
    try:
        return Path(fetch())
    except Exception as error:  # hub and network raise various errors
        raise UserError(
            f"could not download open_clip's {what}: {one_line(error)}; "
            f"pretrained: can name a local file instead, or model: {FOLDER}<folder> a copy of the repository"
        ) from error


def _load(visual: nn.Module, file: Path, target: str) -> None:
    """Load the tensors named `visual.…`; the position embedding is resampled to the tower's grid."""
    tensors = {
        name.removeprefix("module."): tensor
        for name, tensor in checkpoints.read(file).items()
        if name.removeprefix("module.").startswith(VISUAL)
    }
    if not tensors:
        raise UserError(
            f"{file}: holds no tensor named {VISUAL}…; expected a checkpoint of an open_clip model"
        )
    open_clip_model.resize_pos_embed(tensors, SimpleNamespace(visual=visual))
    stored = {name.removeprefix(VISUAL): tensor for name, tensor in tensors.items()}
    matching.load(visual, stored, source=str(file), target=target)
