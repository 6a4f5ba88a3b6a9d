"""Vision models of transformers: Transformers cut after a block, other models with their last feature map."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from vlm_core.errors import UserError
from vlm_core.model_folder.weights import derived_floats
from vlm_encoders.towers.tower import Tower, block_index


class TransformersTower(Tower):
    """A vision Transformer cut after block `layer`; arguments as `Tower`.

    Tokens before the patches (CLS, registers) are dropped. Models that take patches as input (SigLIP 2 with free aspect
    ratio) get them cut here. If the model can resample its position embedding, `forward` takes pixels of any size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        trained_size: tuple[int, int],
        layer: int | None = None,
        **kwargs: Any,
    ) -> None:
        accepts = inspect.signature(model.forward).parameters
        model.config.return_dict = True  # outputs are read by name
        self._takes_patches = "spatial_shapes" in accepts
        self._resamples = "interpolate_pos_encoding" in accepts
        self._trained_size = trained_size
        super().__init__(model, any_size=self._takes_patches or self._resamples, **kwargs)
        self._patch = pair(model.config.patch_size)
        self.blocks = _cut(model, layer)
        self._settle()

    @property
    def keeps_fp32(self) -> list[str]:
        """Tensors that the library computes at construction, such as rotary frequencies."""
        return derived_floats(self)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self._patch[0], width // self._patch[1]

    def _features(self, pixel_values: Tensor) -> Tensor:
        n, _, height, width = pixel_values.shape
        h, w = self.grid(height, width)
        if self._takes_patches:
            shapes = torch.tensor([[h, w]] * n, device="cpu")  # the model reads its values: no GPU sync
            outputs = self.model(
                self._cut_patches(pixel_values), pixel_attention_mask=None, spatial_shapes=shapes
            )
        elif self._resamples and (height, width) != self._trained_size:
            outputs = self.model(pixel_values, interpolate_pos_encoding=True)
        else:
            outputs = self.model(pixel_values)
        return _to_grid(outputs.last_hidden_state, n, h, w)

    def _cut_patches(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, height, width) -> (N, H*W, p*p*3), channels last inside a patch."""
        n, channels, height, width = pixel_values.shape
        (h, w), (rows, columns) = self.grid(height, width), self._patch
        pixel_values = pixel_values[:, :, : h * rows, : w * columns].reshape(n, channels, h, rows, w, columns)
        return pixel_values.permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, -1)


class TransformersMaps(Tower):
    """A CNN or a Transformer in stages (Swin, ConvNeXt, ResNet); arguments as `Tower`.

    Features are the library's `last_hidden_state`; modules without influence on it (the pooled vector's norm) go.
    """

    def __init__(self, model: PreTrainedModel, *, layer: int | None = None, **kwargs: Any) -> None:
        if layer not in (None, -1):
            raise UserError(
                f"layer {layer}: transformers' {type(model).__name__} gives its last feature map only; "
                "leave layer out, or use type: timm, which offers earlier ones"
            )
        model.config.return_dict = True
        super().__init__(model, any_size=True, **kwargs)
        self._settle()
        for name in self._idle():
            setattr(model, name, _Pass())
        self._settle()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._tried_grid(height, width)

    def _features(self, pixel_values: Tensor) -> Tensor:
        outputs = self.model(pixel_values, output_hidden_states=True)
        features = outputs.last_hidden_state
        if features.ndim == 3:  # a sequence of patches; `reshaped_hidden_states` has the grid
            maps = getattr(outputs, "reshaped_hidden_states", None)
            if not maps or features.shape[1] != maps[-1].shape[-2:].numel():
                kind = type(self.model).__name__
                raise ValueError(f"{kind} gives no feature map; type: timm supports more models")
            return features.unflatten(1, maps[-1].shape[-2:])
        return features.permute(0, 2, 3, 1).contiguous()

    def _idle(self) -> list[str]:
        """The model's children whose parameters get no gradient from the features."""
        fake = {k: torch.empty_like(t, device="meta") for k, t in self.state_dict(keep_vars=True).items()}
        named = {k: fake[k].requires_grad_() for k, _ in self.named_parameters()}
        pixels = torch.zeros(2, 3, *self.image_size, device="meta")
        fake |= {k: torch.empty_like(b, device="meta") for k, b in self.named_buffers() if k not in fake}
        with torch.enable_grad():
            features = functional_call(self, fake, (pixels,)).sum()
            gradients = torch.autograd.grad(features, list(named.values()), allow_unused=True)
        used = {k.split(".")[1] for k, g in zip(named, gradients, strict=True) if g is not None}
        return [
            k for k, m in self.model.named_children() if k not in used and any(True for _ in m.parameters())
        ]


class _Pass(nn.Module):
    """Replaces a dropped module: returns its first argument."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x


def in_stages(config: Any) -> bool:
    """Whether the model works in stages of falling resolution rather than on one grid of patches."""
    staged = any(isinstance(getattr(config, key, None), (list, tuple)) for key in ("depths", "hidden_sizes"))
    return staged or getattr(config, "patch_size", None) is None


def pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _to_grid(tokens: Tensor, n: int, h: int, w: int) -> Tensor:
    """Tokens (N, prefix + H*W, D), or a map with channels last or first, -> (N, H, W, D)."""
    if tokens.shape[0] == n and tokens.ndim == 3 and tokens.shape[1] >= h * w:
        return tokens[:, tokens.shape[1] - h * w :].unflatten(1, (h, w))
    if tokens.ndim == 4 and tokens.shape[:3] == (n, h, w):
        return tokens
    if tokens.ndim == 4 and tokens.shape[0] == n and tokens.shape[2:] == (h, w):
        return tokens.permute(0, 2, 3, 1).contiguous()
    raise ValueError(f"it gives {tuple(tokens.shape)} where {n} grids of {h}×{w} patches were expected")


def _cut(model: PreTrainedModel, layer: int | None) -> str:
    """Keep the blocks up to `layer`, and replace the modules registered after the blocks (norm, head) by the identity.

    The last hidden state is then that block's output, as in `hidden_states` of the whole model. Returns the
    path of the blocks in the model.
    """
    count = getattr(model.config, "num_hidden_layers", 0)
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
    _pass_after(model, path.split("."))
    for module in model.modules():  # used in masked pre-training only
        if getattr(module, "mask_token", None) is not None:
            setattr(module, "mask_token", None)  # noqa: B010 (unknown to nn.Module)
    return path


def _pass_after(module: nn.Module, path: Sequence[str]) -> None:
    """Replace modules with parameters that are registered after `path`, at each level of it, by the identity."""
    children = list(module.named_children())
    names = [name for name, _ in children]
    for name, child in children[names.index(path[0]) + 1 :]:
        if any(True for _ in child.parameters()):
            setattr(module, name, _Pass())
    if path[1:]:
        _pass_after(module.get_submodule(path[0]), path[1:])
