"""The keys of a sweep file."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from vlm_core.errors import shown
from vlm_core.io.paths import LocalPath
from vlm_core.plugins.config import StrictModel

Name = Annotated[str, StringConstraints(pattern=r"^[\w.+=/-]+( [\w.+=/-]+)*$", max_length=80)]
MAX_RUNS = 2000
Scalar = str | int | float | bool
Changes = dict[str, Any] | None
"""{dotted key: value}, as `--set` takes them."""
SPEC = "spec"
"""The key of a table's row that names its spec; a spec has no such key."""


class SweepConfig(StrictModel):
    """A sweep file: `rows`, followed by every combination of `axes`; or `tables`, whose rows may share runs."""

    base: Annotated[LocalPath, Field(min_length=1)] | None = Field(
        default=None, description="the spec that every row changes, relative to this file"
    )
    output: LocalPath = Field(min_length=1, description="folder of all runs and of the table")
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[0, 1, 2], min_length=1)
    set: dict[str, Any] = Field(default={}, description="{dotted key: value} for all rows, before their own")
    rows: dict[Name, Changes] = Field(default={}, description="name of the row: {dotted key: value}")
    axes: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = Field(
        default={}, description="dotted key: values"
    )
    tables: dict[Name, Annotated[dict[Name, Changes], Field(min_length=1)]] = Field(
        default={},
        description="title of the table: {name of the row: {spec: file, dotted key: value}}; "
        "rows with equal specs share a run",
    )

    @model_validator(mode="after")
    def _bounded(self) -> SweepConfig:
        """Count the runs before they are built."""
        combined = math.prod(map(len, self.axes.values())) if self.axes else 0
        rows = len(self.rows) + combined + sum(map(len, self.tables.values()))
        if (runs := rows * len(self.seeds)) > MAX_RUNS:
            raise ValueError(f"the sweep has {runs} runs; at most {MAX_RUNS} go into one")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        if not self.rows and not self.axes and not self.tables:
            raise ValueError("expected rows, axes or both; or tables")
        if self.tables and (self.rows or self.axes):
            raise ValueError("has tables, and rows or axes: write these rows as a table, too")
        if not self.tables and self.base is None:
            raise ValueError("base: missing: the spec that the rows change")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds contains a duplicate: {shown(self.seeds)}")
        return self
