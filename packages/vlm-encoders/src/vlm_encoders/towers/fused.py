"""Fused encoder: several towers on one image, their features concatenated along channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.interfaces import Encoder
from vlm_core.plugins.config import EncoderConfig


class FusedEncoder(Encoder):
    """Features (N, H, W, D) of all towers, concatenated along channels in the order of `towers`.

    The towers share pixels in [0, 1], which the first tower's `transform` computes; each normalises them with its own
    mean and std. Raises `UserError` if the towers differ in image size, resizing or grid; the messages name them by
    `names`.
    """

    def __init__(self, towers: Sequence[Encoder], names: Sequence[str]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        first = towers[0]
        self.dim, self.image_size = sum(tower.dim for tower in towers), first.image_size
        self.resizing = getattr(first, "resizing", None)
        for name, tower in zip(names[1:], towers[1:], strict=True):
            self._check(names[0], name, tower)

    def _check(self, first: str, name: str, tower: Encoder) -> None:
        expected, actual = self.image_size, tower.image_size
        if expected != actual:
            raise UserError(
                f"fused: {first} takes {_by(expected)} pixels and {name} {_by(actual)}; "
                "the towers share one picture: give both the same image_size"
            )
        expected, actual = self.grid(*expected), tower.grid(*expected)
        if expected != actual:
            raise UserError(
                f"fused: {first} gives a grid of {_by(expected)} patches and {name} one of {_by(actual)}; "
                "features are joined patch by patch, so the towers need equal grids"
            )
        resizing = getattr(tower, "resizing", self.resizing)
        if None not in (resizing, self.resizing) and resizing != self.resizing:
            raise UserError(
                f"fused: {first} wants {self.resizing} and {name} {resizing}; "
                "the towers share one picture: give both the same resize_mode and interpolation"
            )

    def transform(self, image: Image.Image) -> Tensor:
        return self._tower(0).transform(image)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self._tower(0).grid(height, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return torch.cat([tower(pixel_values) for tower in self.towers], dim=-1)

    def save_assets(self, folder: Path) -> None:
        for i in range(len(self.towers)):
            self._tower(i).save_assets(folder / str(i))

    def _tower(self, index: int) -> Encoder:
        tower = self.towers[index]
        assert isinstance(tower, Encoder)
        return tower


def build_fused(
    towers: Sequence[EncoderConfig], *, weights: bool = True, assets: Path | None = None
) -> FusedEncoder:
    """Build the towers in order. A tower's `UserError` is raised again with its number and name."""
    names = [f"tower {i + 1} ({config.label()})" for i, config in enumerate(towers)]
    built = []
    for i, (name, config) in enumerate(zip(names, towers, strict=True)):
        try:
            built.append(config.build(weights=weights, assets=assets and assets / str(i)))
        except UserError as error:
            raise UserError(f"fused: {name}: {error.lines[0]}", *error.lines[1:]) from error
    return FusedEncoder(built, names)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
