"""Vision Transformers of the transformers library, alone or as one half of a dual model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from vlm_core.errors import UserError
from vlm_encoders.tower import Tower, block_index, one_line, read_asset

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


class TransformersTower(Tower):
    """A vision Transformer cut after block `layer`; arguments as `Tower`, without `image_size`.

    CLS and register tokens, however many, are what precedes the patches. Models that take ready-made patches
    (SigLIP 2 with free aspect ratio) get them cut here.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        layer: int | None = None,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        config = model.config
        patch, own = _pair(getattr(config, "patch_size", None)), _own_size(config)
        if patch is None or own is None:
            kind = type(model).__name__
            raise UserError(f"{kind} is no vision Transformer with patches; CNNs are available as type: timm")
        super().__init__(model, image_size=_pair(image_size) or own, **kwargs)
        self._patch = patch
        accepts = inspect.signature(model.forward).parameters
        self._takes_patches = "spatial_shapes" in accepts
        resampled = self.image_size != own and "interpolate_pos_encoding" in accepts
        self._options = {"interpolate_pos_encoding": True} if resampled else {}
        _cut(model, layer)
        self._settle()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self._patch[0], width // self._patch[1]

    def _features(self, pixels: Tensor) -> Tensor:
        n, _, height, width = pixels.shape
        h, w = self.grid(height, width)
        if self._takes_patches:
            shapes = torch.tensor([[h, w]] * n, device="cpu")  # read as numbers, whatever the model's device
            found = self.model(self._cut_patches(pixels), pixel_attention_mask=None, spatial_shapes=shapes)
        else:
            found = self.model(pixels, **self._options)
        tokens = found.last_hidden_state
        return tokens[:, tokens.shape[1] - h * w :].reshape(n, h, w, -1)

    def _cut_patches(self, pixels: Tensor) -> Tensor:
        """(N, 3, height, width) -> (N, H*W, p*p*3), channels last inside a patch."""
        n, channels, height, width = pixels.shape
        (h, w), (rows, columns) = self.grid(height, width), self._patch
        pixels = pixels[:, :, : h * rows, : w * columns].reshape(n, channels, h, rows, w, columns)
        return pixels.permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, -1)


class _Pass(nn.Module):
    """Stands in for a part that is not wanted; hands its first argument on."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x


def _cut(model: PreTrainedModel, layer: int | None) -> None:
    """Keep the blocks up to `layer`; what the model registers after its blocks (norm, head) passes through.

    The last hidden state is then that block's output, as in `hidden_states` of the whole model.
    """
    count = model.config.num_hidden_layers
    lists = [
        (name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count
    ]
    if len(lists) != 1:
        raise UserError(
            f"{type(model).__name__} has no single list of {count} blocks; this tower is not supported"
        )
    path, blocks = lists[0]
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, blocks[: block_index(layer, count) + 1])
    children = [child for child, _ in model.named_children()]
    for after in children[children.index(path.partition(".")[0]) + 1 :]:
        setattr(model, after, _Pass())
    for module in model.modules():  # serves masked pre-training only
        if getattr(module, "mask_token", None) is not None:
            setattr(module, "mask_token", None)  # noqa: B010 (unknown to nn.Module)


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _own_size(config: Any) -> tuple[int, int] | None:
    """(height, width) the tower was trained at; free-aspect models say it as a number of patches."""
    patches = getattr(config, "num_patches", None)
    if getattr(config, "image_size", None) is None and patches is not None:
        side = round(patches**0.5) * config.patch_size
        return side, side
    return _pair(getattr(config, "image_size", None))


def build_transformers(
    *,
    model: str,
    weights: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layer: int | None = None,
    image_size: int | None = None,
    fit: str = "resize",
    assets: Path | None = None,
) -> TransformersTower:
    """Load the tower in float32, or build it from its config alone.

    Raises `UserError` for what is missing, does not fit or would run code of a repository.
    """
    tower = _pretrained(model) if weights else _random(str(assets or model))
    given = {"image_mean": mean, "image_std": std}
    if mean is None or std is None:
        found = read_asset(assets, PREPROCESSOR) if assets else _preprocessor(model)
        given = {key: value or found.get(key) for key, value in given.items()}
    if not given["image_mean"] or not given["image_std"]:
        raise UserError(
            f"{model}: its {PREPROCESSOR} has no image_mean and image_std; give mean and std in the spec"
        )
    return TransformersTower(
        tower.float(),
        layer=layer,
        image_size=image_size,
        mean=given["image_mean"],
        std=given["image_std"],
        fit=fit,
        assets={CONFIG: json.loads(tower.config.to_json_string(use_diff=False)), PREPROCESSOR: given},
    )


def _vision_half(model: Any) -> PreTrainedModel:
    return getattr(model, "vision_model", model)


def _random(source: str) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        return _vision_half(AutoModel.from_config(config, trust_remote_code=False))
    except Exception as error:  # hub, network and each model's config raise errors of their own
        raise UserError(_failure(source, "configuration", error)) from error


def _pretrained(source: str) -> PreTrainedModel:
    try:
        model, report = AutoModel.from_pretrained(source, trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # hub, network and file readers raise errors of their own
        raise UserError(_failure(source, "weights", error)) from error
    tower = _vision_half(model)
    prefix = "" if tower is model else "vision_model."
    wanted = {prefix + name for name, _ in tower.named_parameters()}
    # the library fills what a checkpoint lacks with random numbers
    if missing := sorted(wanted & set(report["missing_keys"])):
        raise UserError(
            f"{source}: its weights lack {len(missing)} of {len(wanted)} tensors of the vision tower "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''})"
        )
    return tower


def _preprocessor(model: str) -> dict[str, Any]:
    """The image preprocessor's settings, read as data: only mean and std are wanted."""
    try:
        return ImageProcessingMixin.get_image_processor_dict(model)[0]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{_failure(model, PREPROCESSOR, error)}; or give mean and std in the spec"
        ) from error


def _failure(source: str, what: str, error: Exception) -> str:
    hint = "" if Path(source).is_dir() else "; offline, model: can name a local folder"
    return f"could not read {source} ({what}): {one_line(error)}{hint}"
