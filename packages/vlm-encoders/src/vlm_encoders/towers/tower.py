"""Base class of all towers: normalisation, sizes, layer numbers and a test run on the meta device."""

from __future__ import annotations

import difflib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from vlm_core.errors import UserError, one_line
from vlm_core.interfaces import Encoder
from vlm_core.io.files import read_json
from vlm_core.preprocessing import Preprocessing
from vlm_encoders.towers.transforms import BICUBIC, Resizing, to_pixels
from vlm_encoders.weights.activations import activation_of


class Tower(Encoder):
    """An encoder around a library's `model`: pixels (N, 3, height, width) in [0, 1] -> features (N, H, W, D).

    `mean` and `std` of R, G, B stay float32 on the module's device whatever the parameters are cast to. `Resizing`
    explains `resize_mode`, `interpolation` and `crop_pct`; `sources` names the source of each value. `assets` maps file
    names to JSON content or text that `save_assets` writes. Unless `any_size`, `forward` raises `UserError` for pixels
    of another size than `image_size` (height, width). Subclasses end their constructor with `_settle`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        resize_mode: str = "resize",
        interpolation: str = BICUBIC,
        crop_pct: float = 1.0,
        sources: Mapping[str, str] | None = None,
        any_size: bool = False,
        assets: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.image_size = model, image_size
        self._constants = (tuple(mean), tuple(std))
        self.resizing = Resizing(resize_mode, interpolation, crop_pct if resize_mode == "crop" else 1.0)
        self._sources = {"activation": "the architecture", **(sources or {})}
        self._any_size, self._assets = any_size, dict(assets or {})
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, _constant(values, None), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # a cast to bf16 would round the constants, and `to_empty` would lose them: set them again
        super()._apply(fn, recurse)
        self.mean, self.std = (_constant(values, self.mean.device) for values in self._constants)
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        mean, std = self._constants
        return Preprocessing(
            self.image_size,
            mean,
            std,
            self.resizing.interpolation,
            self.resizing.resize_mode,
            self.resizing.crop_pct,
            activation_of(self.model),
            self._sources,
        )

    def transform(self, image: Image.Image) -> Tensor:
        return to_pixels(image, *self.image_size, self.resizing, self._constants[0])

    def forward(self, pixel_values: Tensor) -> Tensor:
        size = tuple(pixel_values.shape[-2:])
        if size != self.image_size and not self._any_size:
            raise UserError(
                f"this encoder takes {self.image_size[0]}×{self.image_size[1]} pixels, "
                f"got {size[0]}×{size[1]}; its image_size can be set in the spec"
            )
        normal = (pixel_values - self.mean) / self.std
        return self._features(normal.to(next(self.model.parameters(), normal).dtype))

    @abstractmethod
    def _features(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (N, 3, height, width) -> (N, H, W, D)."""

    def save_assets(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._assets.items():
            text = (
                content if isinstance(content, str) else json.dumps(content, indent=2, sort_keys=True) + "\n"
            )
            (folder / name).write_text(text, encoding="utf-8")

    def _tried_grid(self, height: int, width: int) -> tuple[int, int]:
        """`grid` by a trial run, for models whose strides and padding differ."""
        if (height, width) not in self._grids:
            _, rows, columns, _ = self._try(height, width)[0]
            self._grids[height, width] = rows, columns
        return self._grids[height, width]

    def _settle(self) -> None:
        """Last step of construction: a trial run gives `dim`, and modules that it did not use are dropped."""
        height, width = self.image_size
        try:
            shape, run = self._try(height, width)
        except Exception as error:  # models raise various errors for a size that they don't take
            raise UserError(f"this tower cannot run on {height}×{width} pixels: {one_line(error)}") from error
        if _drop_unused(self.model, run):
            assert self._try(height, width)[0] == shape, "a module that runs was dropped"
        self.dim = shape[-1]
        self.eval()

    def _try(self, height: int, width: int) -> tuple[torch.Size, set[nn.Module]]:
        """Shape of the features and the modules that ran, on the meta device: without memory and arithmetic."""
        run: set[nn.Module] = set()
        hooks = [m.register_forward_pre_hook(lambda m, _: run.add(m)) for m in self.modules()]
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        try:
            # two images, because batch norm refuses one in training mode
            pixels = torch.zeros(2, 3, height, width, device="meta")
            with torch.no_grad():
                fake = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
                shape = functional_call(self, fake, (pixels,)).shape
        finally:
            for hook in hooks:
                hook.remove()
        return shape, run


def _constant(values: Sequence[float], device: torch.device | None) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def _drop_unused(model: nn.Module, run: set[nn.Module]) -> bool:
    """Replace children that did not run (classifier, pooling, final norm), so that parameters count what runs.

    Returns whether there were any.
    """
    children = model.named_children()
    unused = [n for n, m in children if any(True for _ in m.parameters()) and run.isdisjoint(m.modules())]
    for name in unused:
        setattr(model, name, nn.Identity())
    return bool(unused)


def block_index(layer: int | None, count: int) -> int:
    """`layer` as an index from 0 to `count` - 1; None is the penultimate block."""
    layer = -2 if layer is None else layer
    if not -count <= layer < count:
        raise UserError(
            f"layer {layer} does not exist: this tower has {count} blocks, -{count} to {count - 1}"
        )
    return layer % count


def nearest(name: str, names: Iterable[str]) -> str:
    """`; nearest: a, b`, for libraries with too many names to list."""
    near = difflib.get_close_matches(name, list(names), n=5, cutoff=0.4)
    return f"; nearest: {', '.join(near)}" if near else ""


def read_asset(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object of a file that `save_assets` wrote."""
    try:
        return read_json(folder / name)
    except UserError as error:
        raise UserError(f"{folder / name}: cannot read this part of the saved encoder: {error}") from None
