"""The grid of a sweep, read from its file: rows, each a change to one base spec, times seeds."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from vlm_core.errors import Problem, SpecError, UserError, shown
from vlm_core.io.paths import MAX_NAME, LocalPath
from vlm_core.io.yaml_loader import Document, Path_, override, parse, put, read
from vlm_core.plugins.config import StrictModel
from vlm_core.spec.inheritance import read_with_base, resolve_relative
from vlm_core.spec.spec import Spec, validate_document
from vlm_core.spec.validate import validate

Name = Annotated[str, StringConstraints(pattern=r"^[\w.+=/-]+( [\w.+=/-]+)*$", max_length=80)]
MAX_RUNS = 2000
Scalar = str | int | float | bool
RESERVED = {
    "train": "",
    "train.output": "; `output` says where runs go",
    "train.seed": "; `seeds` does",
    "name": "",
}
"""Keys that rows can't set, and what sets them."""


class SweepConfig(StrictModel):
    """A sweep file. Its rows are those of `rows`, followed by every combination of `axes`."""

    base: LocalPath = Field(
        min_length=1, description="the spec that every row changes, relative to this file"
    )
    output: LocalPath = Field(min_length=1, description="folder of all runs and of the table")
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[0, 1, 2], min_length=1)
    rows: dict[Name, dict[str, Any] | None] = Field(
        default={}, description="name of the row: {dotted key: value}, as --set takes them"
    )
    axes: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = Field(
        default={}, description="dotted key: values"
    )

    @model_validator(mode="after")
    def _bounded(self) -> SweepConfig:
        """Count the runs before they are built."""
        combined = math.prod(map(len, self.axes.values())) if self.axes else 0
        runs = (len(self.rows) + combined) * len(self.seeds)
        if runs > MAX_RUNS:
            raise ValueError(f"the sweep has {runs} runs; at most {MAX_RUNS} go into one")
        return self

    @model_validator(mode="after")
    def _not_empty(self) -> SweepConfig:
        if not self.rows and not self.axes:
            raise ValueError("expected rows, axes or both")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds contains a duplicate: {shown(self.seeds)}")
        return self


@dataclass(frozen=True)
class Setting:
    """One key of a row and its value; `where` is the `file:line` that sets it."""

    key: str
    value: Any
    where: str

    def __str__(self) -> str:
        """The assignment as `--set` takes it: plain text where YAML reads it as such, else JSON, a subset of YAML."""
        return (
            f"{self.key}={self.value if _plain(self.value) else json.dumps(self.value, ensure_ascii=False)}"
        )


def _plain(value: Any) -> bool:
    """Whether YAML reads this text as itself without quotes."""
    try:
        return isinstance(value, str) and parse(value, "").data == value
    except UserError:
        return False


@dataclass(frozen=True)
class Row:
    """A variant: its name in the table, and the keys that it sets."""

    name: str
    settings: tuple[Setting, ...]

    @property
    def folder(self) -> str:
        """The name as part of a path; it has no dots, so it is neither `..` nor the name of a file of the sweep."""
        return re.sub(r"[^\w+-]", "-", self.name)


@dataclass(frozen=True)
class Grid:
    """A sweep file whose rows have been validated."""

    file: str
    base: Path
    output: Path
    seeds: list[int]
    rows: list[Row]
    common: Sequence[str] = ()
    """`--set` assignments for the base."""
    trust_remote_code: bool = False
    """Whether code in local files may run."""

    @cached_property
    def _base_document(self) -> Document:
        """The base spec, merged with the specs that it inherits from."""
        return read_with_base(self.base)

    def settings(self, row: Row, seed: int) -> list[Setting]:
        """All keys that a run sets: those of the row, and its name, folder and seed."""
        reserved = {"name": row.folder, "train.output": str(self.folder(row, seed)), "train.seed": seed}
        return [*row.settings, *(Setting(key, value, self.file) for key, value in reserved.items())]

    def folder(self, row: Row, seed: int) -> Path:
        return self.output / row.folder / f"seed-{seed}"

    def spec(self, row: Row, seed: int) -> tuple[Spec, Document]:
        """The validated spec of one run; `SpecError` for a fault of a row has the line of the sweep file."""
        document = deepcopy(self._base_document)
        for assignment in self.common:
            override(document, assignment)
        for setting in self.settings(row, seed):
            put(document, setting.key, setting.value, setting.where)
        return validate_document(document, trust_remote_code=self.trust_remote_code), document


def load(path: str | Path, common: Sequence[str] = (), *, trust_remote_code: bool = False) -> Grid:
    """Read a sweep file and validate the spec of every row; raises `SpecError` with all problems."""
    document = read(path)
    config = validate(SweepConfig, document)
    base = resolve_relative(document.file, config.base)
    if not os.path.isfile(base):
        text = f"no such file: {shown(str(base), 200)}; the path is relative to this file"
        raise SpecError([document.problem(("base",), text)])
    rows = [*_named(config, document), *_combined(config, document)]
    _distinct(rows, document)
    grid = Grid(document.file, base, Path(config.output), config.seeds, rows, common, trust_remote_code)
    problems: dict[Problem, None] = {}
    for row in rows:
        try:
            grid.spec(row, config.seeds[0])
        except SpecError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SpecError(list(problems))
    return grid


def _named(config: SweepConfig, document: Document) -> Iterator[Row]:
    for name, changes in config.rows.items():
        yield Row(
            name, tuple(_setting(document, k, v, ("rows", name, k)) for k, v in (changes or {}).items())
        )


def _combined(config: SweepConfig, document: Document) -> Iterator[Row]:
    """Every combination, the last axis changing fastest."""
    if not config.axes:
        return
    for indices in product(*(range(len(values)) for values in config.axes.values())):
        settings = [
            _setting(document, key, values[i], ("axes", key, i))
            for i, (key, values) in zip(indices, config.axes.items(), strict=True)
        ]
        yield Row(" ".join(map(_label, settings)), tuple(settings))


def _label(setting: Setting) -> str:
    """A setting in the name of a row: a text alone, a number with its key."""
    if isinstance(setting.value, str):
        return setting.value
    return f"{setting.key.rsplit('.', 1)[-1]}={json.dumps(setting.value)}"


def _setting(document: Document, key: str, value: Any, at: Path_) -> Setting:
    if key in RESERVED:
        raise SpecError([document.problem(at, f"a row can't set {key}{RESERVED[key]}")])
    return Setting(key, value, document.where(at))


def _distinct(rows: Sequence[Row], document: Document) -> None:
    folders = Counter(row.folder for row in rows)
    for row in rows:
        if len(row.folder.encode()) > MAX_NAME:
            raise UserError(
                f"{document.file}: the values of row {shown(row.name)} give a name of more than {MAX_NAME} bytes; "
                "write it under `rows`, with a shorter name"
            )
        if folders[row.folder] > 1:
            raise UserError(f"{document.file}: two rows would share the folder {row.folder!r}; rename one")
