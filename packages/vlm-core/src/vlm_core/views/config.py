"""The spec key `views`: tiles of an image, and how their tokens are arranged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from vlm_core.plugins.config import StrictModel
from vlm_core.views.rule import LLAVA_NEXT_GRIDS, ViewRule

MOST_TILES = 256
Count = Annotated[int, Field(ge=1, le=MOST_TILES)]
Grid = Annotated[list[Count], Field(min_length=2, max_length=2)]


class ViewsConfig(StrictModel):
    """What an image gives the model: one view, or tiles at a higher resolution and an overview."""

    tiles: Literal["none", "anyres", "dynamic"] = Field(
        default="none",
        description="none: one view; anyres: LLaVA-NeXT's rule over `grid`; dynamic: InternVL's rule, also Nemotron's",
    )
    min_tiles: Count | None = Field(default=None, description="dynamic: the fewest tiles; default 1")
    max_tiles: Count | None = Field(
        default=None, description="the most tiles: dynamic default 12; anyres leaves out grids with more"
    )
    grid: list[Grid] | None = Field(
        default=None,
        min_length=1,
        description="anyres: the possible [rows, columns]; of equal ones the first is chosen; default LLaVA-1.6's",
    )
    overview: bool | Literal["first", "last"] = Field(
        default=True,
        description="the whole image as another view: true is first for anyres, last for dynamic",
    )
    pad: Literal["black", "mean", "none"] | None = Field(
        default=None,
        description="colour of the padding around the image on its tiles; none stretches it. "
        "Default black for anyres, none for dynamic",
    )
    arrangement: Literal["tiles", "rows"] = Field(
        default="tiles", description="token order: tile after tile, or the rows of all tiles as one grid"
    )
    unpad: bool = Field(default=False, description="rows: leave out the tokens of padding")
    newline: bool = Field(default=False, description="rows: end each row with a learned embedding")

    @field_validator("min_tiles", "max_tiles", "grid")
    @classmethod
    def _for_tiles(cls, value: object, info: ValidationInfo) -> object:
        rules = {"grid": ("anyres",), "min_tiles": ("dynamic",)}.get(
            str(info.field_name), ("anyres", "dynamic")
        )
        tiles = info.data.get("tiles")
        if value is not None and tiles is not None and tiles not in rules:
            raise ValueError(f"has no effect with tiles: {tiles}; it belongs to tiles: {' or '.join(rules)}")
        return value

    @field_validator("max_tiles")
    @classmethod
    def _at_least_the_fewest(cls, value: int | None, info: ValidationInfo) -> int | None:
        fewest = info.data.get("min_tiles")
        if value is not None and fewest is not None and value < fewest:
            raise ValueError(f"{value} is less than min_tiles {fewest}: no image would fit")
        return value

    @field_validator("grid")
    @classmethod
    def _possible(cls, value: list[list[int]] | None, info: ValidationInfo) -> list[list[int]] | None:
        most = info.data.get("max_tiles")
        for number, (rows, columns) in enumerate(value or []):
            if [rows, columns] in (value or [])[:number]:
                raise ValueError(f"[{rows}, {columns}] is listed twice: no image would get the second")
            if rows * columns > (most or MOST_TILES):
                limit = f"max_tiles {most}" if most else f"the {MOST_TILES} that are possible"
                raise ValueError(
                    f"no image fits [{rows}, {columns}]: {rows * columns} tiles, more than {limit}"
                )
        return value

    @field_validator("pad", "unpad", "newline")
    @classmethod
    def _with_tiles(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("tiles") == "none":
            raise ValueError("has no effect with tiles: none")
        if value and info.field_name != "pad" and info.data.get("arrangement") == "tiles":
            raise ValueError("needs arrangement: rows")
        if value and info.field_name == "unpad" and cls._padding(info.data) == "none":
            raise ValueError("nothing is padded with pad: none")
        return value

    @staticmethod
    def _padding(data: Mapping[str, Any]) -> Literal["black", "mean", "none"]:
        return data.get("pad") or ("black" if data.get("tiles") == "anyres" else "none")

    def rule(self) -> ViewRule | None:
        """The rule as plain values; None for one view."""
        if self.tiles == "none":
            return None
        anyres = self.tiles == "anyres"
        grids = tuple((rows, columns) for rows, columns in self.grid or LLAVA_NEXT_GRIDS)
        grids = tuple(grid for grid in grids if grid[0] * grid[1] <= (self.max_tiles or MOST_TILES))
        overview = self.overview
        if isinstance(overview, bool):
            overview = ("first" if anyres else "last") if overview else None
        return ViewRule(
            grids=grids if anyres else None,
            tiles=(1, 12)
            if anyres
            else (self.min_tiles or 1, self.max_tiles or max(12, self.min_tiles or 1)),
            overview=overview,
            pad=self._padding(self.__dict__),
            rows=self.arrangement == "rows",
            unpad=self.unpad,
            newline=self.newline,
        )
