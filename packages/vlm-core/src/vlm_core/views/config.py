"""The spec key `views`: tiles of an image, how their tokens are arranged, and the frames of a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from vlm_core.io.video.sources import Sampling
from vlm_core.plugins.config import StrictModel
from vlm_core.views.rule import LLAVA_NEXT_GRIDS, ViewRule
from vlm_core.views.video_config import VideoConfig

MOST_TILES = 256
_FEWEST = min(rows * columns for rows, columns in LLAVA_NEXT_GRIDS)
Count = Annotated[int, Field(ge=1, le=MOST_TILES)]
Grid = Annotated[list[Count], Field(min_length=2, max_length=2)]


class ViewsConfig(StrictModel):
    """What an image gives the model: one view, or tiles at a higher resolution and an overview."""

    tiles: Literal["none", "anyres", "dynamic"] = Field(
        default="none",
        description="none: one view; anyres: LLaVA-NeXT's rule over `grid`; dynamic: InternVL's rule, also Nemotron's",
    )
    grid: list[Grid] | None = Field(
        default=None,
        min_length=1,
        description="anyres: the possible [rows, columns]; of equal ones the first is chosen; default LLaVA-1.6's",
    )
    min_tiles: Count | None = Field(default=None, description="dynamic: the fewest tiles; default 1")
    max_tiles: Count | None = Field(
        default=None, description="the most tiles: dynamic default 12; anyres leaves out grids with more"
    )
    overview: Literal[True, False, "first", "last"] = Field(
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
    video: VideoConfig | None = Field(
        default=None, description="which frames of a video are read; default: frames: 8. A frame has one view"
    )

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

    @field_validator("grid")
    @classmethod
    def _possible(cls, value: list[list[int]] | None) -> list[list[int]] | None:
        for number, (rows, columns) in enumerate(value or []):
            if [rows, columns] in (value or [])[:number]:
                raise ValueError(f"[{rows}, {columns}] is listed twice: no image would get the second")
            if rows * columns > MOST_TILES:
                raise ValueError(
                    f"[{rows}, {columns}]: {rows * columns} tiles; at most {MOST_TILES} are possible"
                )
        return value

    @field_validator("max_tiles")
    @classmethod
    def _leaves_some(cls, value: int | None, info: ValidationInfo) -> int | None:
        fewest, grids = info.data.get("min_tiles"), info.data.get("grid")
        if value is None:
            return None
        if fewest is not None and value < fewest:
            raise ValueError(f"{value} is less than min_tiles {fewest}: no image would fit")
        for rows, columns in grids or []:
            if rows * columns > value:
                raise ValueError(
                    f"no image fits [{rows}, {columns}] of grid, {rows * columns} tiles, within {value}"
                )
        if grids is None and info.data.get("tiles") == "anyres" and value < _FEWEST:
            raise ValueError(f"no grid of LLaVA-1.6 has {value} tile: at least {_FEWEST}, or name a grid")
        return value

    @field_validator("overview", "pad", "arrangement", "unpad", "newline")
    @classmethod
    def _with_tiles(cls, value: object, info: ValidationInfo) -> object:
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("tiles") == "none":
            raise ValueError("has no effect with tiles: none")
        if value is True and info.field_name != "overview" and info.data.get("arrangement") == "tiles":
            raise ValueError("needs arrangement: rows")
        if value and info.field_name == "unpad" and cls._padding(info.data) == "none":
            raise ValueError("nothing is padded with pad: none")
        return value

    @staticmethod
    def _padding(data: Mapping[str, Any]) -> Literal["black", "mean", "none"]:
        return data.get("pad") or ("black" if data.get("tiles") == "anyres" else "none")

    def sampling(self) -> Sampling | None:
        """The frames that are read of a video without a sampling of its own; None: the spec doesn't say."""
        return None if self.video is None else self.video.sampling()

    def rule(self) -> ViewRule | None:
        """The rule as plain values; None for one view."""
        if self.tiles == "none":
            return None
        anyres = self.tiles == "anyres"
        grids = tuple((rows, columns) for rows, columns in self.grid or LLAVA_NEXT_GRIDS)
        grids = tuple(grid for grid in grids if grid[0] * grid[1] <= (self.max_tiles or MOST_TILES))
        usual: Literal["first", "last"] = "first" if anyres else "last"
        return ViewRule(
            grids=grids if anyres else None,
            tiles=(1, 12)
            if anyres
            else (self.min_tiles or 1, self.max_tiles or max(12, self.min_tiles or 1)),
            overview={True: usual, False: None}.get(self.overview, self.overview),  # pyright: ignore
            pad=self._padding(self.__dict__),
            rows=self.arrangement == "rows",
            unpad=self.unpad,
            newline=self.newline,
        )
