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
    """Features of all towers concatenated on channels, in the order of `towers`: D is the sum of theirs.

    The towers share the pixels, which the first one's `transform` makes; each normalises them with its own
    constants. Raises `UserError` if they differ in the picture they want or in the grid they give. `names`
    stand in these messages.
    """

    def __init__(self, towers: Sequence[Encoder], names: Sequence[str]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)
        first = towers[0]
        self.dim, self.image_size = sum(tower.dim for tower in towers), first.image_size
        self.picture = getattr(first, "picture", None)
        for name, tower in zip(names[1:], towers[1:], strict=True):
            self._check(names[0], name, tower)

    def _check(self, first: str, name: str, tower: Encoder) -> None:
        mine, theirs = self.image_size, tower.image_size
        if mine != theirs:
            raise UserError(
                f"fused: {first} takes {_by(mine)} pixels and {name} {_by(theirs)}; "
                "the towers share one picture: give both the same image_size"
            )
        mine, theirs = self.grid(*mine), tower.grid(*mine)
        if mine != theirs:
            raise UserError(
                f"fused: {first} gives a grid of {_by(mine)} patches and {name} one of {_by(theirs)}; "
                "features are joined patch by patch, so the towers need equal grids"
            )
        picture = getattr(tower, "picture", self.picture)
        if None not in (picture, self.picture) and picture != self.picture:
            raise UserError(
                f"fused: {first} wants {self.picture} and {name} {picture}; "
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
    """Build the towers one after the other; a fault of one is reported with its place and name."""
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
