"""The grid of a sweep: rows, each the difference to one base spec, times seeds. Plain data; nothing runs here."""

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
OWN = {
    "train": "",
    "train.output": "; `output` says where runs go",
    "train.seed": "; `seeds` does",
    "name": "",
}
"""Keys that rows can't set, and why not."""


class SweepConfig(StrictModel):
    """A sweep file. The rows are those of `rows`, then every combination of `axes`."""

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
        """A grid is counted before it is built."""
        combined = math.prod(map(len, self.axes.values())) if self.axes else 0
        runs = (len(self.rows) + combined) * len(self.seeds)
        if runs > MAX_RUNS:
            raise ValueError(f"the sweep has {runs} runs; at most {MAX_RUNS} go into one")
        return self

    @model_validator(mode="after")
    def _something(self) -> SweepConfig:
        if not self.rows and not self.axes:
            raise ValueError("a sweep has rows, axes or both")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds holds one twice: {shown(self.seeds)}")
        return self


@dataclass(frozen=True)
class Setting:
    """One key of a row, and the `file:line` where it stands."""

    key: str
    value: Any
    where: str

    def __str__(self) -> str:
        """As `--set` takes it: JSON is YAML, and plain text stays plain where YAML reads it back the same."""
        return (
            f"{self.key}={self.value if _plain(self.value) else json.dumps(self.value, ensure_ascii=False)}"
        )


def _plain(value: Any) -> bool:
    """Text that YAML reads back as itself without quotes."""
    try:
        return isinstance(value, str) and parse(value, "").data == value
    except UserError:
        return False


@dataclass(frozen=True)
class Row:
    """A variant: what the table calls it, and what it sets."""

    name: str
    settings: tuple[Setting, ...]

    @property
    def folder(self) -> str:
        """The name as part of a path: without dots, so that it is never `..`, nor a file of the sweep."""
        return re.sub(r"[^\w+-]", "-", self.name)


@dataclass(frozen=True)
class Grid:
    """A sweep file that was read: every row's spec is valid."""

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
    def _start(self) -> Document:
        """The base with what it takes from its own bases, read once."""
        return read_with_base(self.base)

    def settings(self, row: Row, seed: int) -> list[Setting]:
        """All that a run sets: what the row says, and what makes it a run of its own."""
        own = {"name": row.folder, "train.output": str(self.folder(row, seed)), "train.seed": seed}
        return [*row.settings, *(Setting(key, value, self.file) for key, value in own.items())]

    def folder(self, row: Row, seed: int) -> Path:
        return self.output / row.folder / f"seed-{seed}"

    def spec(self, row: Row, seed: int) -> tuple[Spec, Document]:
        """The validated spec of one run; faults of a row name the sweep file's line."""
        document = deepcopy(self._start)
        for assignment in self.common:
            override(document, assignment)
        for setting in self.settings(row, seed):
            put(document, setting.key, setting.value, setting.where)
        return validate_document(document, trust_remote_code=self.trust_remote_code), document


def load(path: str | Path, common: Sequence[str] = (), *, trust_remote_code: bool = False) -> Grid:
    """Read a sweep file and validate the spec of every row; raises `SpecError` with all faults."""
    document = read(path)
    config = validate(SweepConfig, document)
    base = resolve_relative(document.file, config.base)
    if not os.path.isfile(base):
        text = f"no such file: {shown(str(base), 200)}; it is named relative to this one"
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
        yield Row(" ".join(map(_called, settings)), tuple(settings))


def _called(setting: Setting) -> str:
    """A word speaks for itself; a number needs its key."""
    if isinstance(setting.value, str):
        return setting.value
    return f"{setting.key.rsplit('.', 1)[-1]}={json.dumps(setting.value)}"


def _setting(document: Document, key: str, value: Any, at: Path_) -> Setting:
    if key in OWN:
        raise SpecError([document.problem(at, f"a row can't set {key}{OWN[key]}")])
    return Setting(key, value, document.where(at))


def _distinct(rows: Sequence[Row], document: Document) -> None:
    folders = Counter(row.folder for row in rows)
    for row in rows:
        if len(row.folder.encode()) > MAX_NAME:
            raise UserError(
                f"{document.file}: the values of row {shown(row.name)} make a name of more than {MAX_NAME} bytes; "
                "write it under `rows`, with a name of its own"
            )
        if folders[row.folder] > 1:
            raise UserError(f"{document.file}: two rows would share the folder {row.folder!r}; rename one")
