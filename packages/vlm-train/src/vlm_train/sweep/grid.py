"""The grid of a sweep, read from its file: rows, each a change to a spec, times seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlm_core.errors import Problem, SpecError
from vlm_core.io.yaml_loader import Document, override, put, read
from vlm_core.spec.inheritance import read_with_base
from vlm_core.spec.spec import Spec, validate_document
from vlm_core.spec.validate import validate
from vlm_train.sweep.config import SweepConfig
from vlm_train.sweep.rows import (
    Row,
    Setting,
    combined,
    common_settings,
    named,
    refuse_equal_folders,
    spec_file,
)
from vlm_train.sweep.shared_runs import shared_runs

Tables = Mapping[str, Mapping[str, Row]]
"""The run of each row, by the titles of the tables and the names of the rows."""


@dataclass(frozen=True)
class Grid:
    """A sweep file whose rows have been validated; each of `rows` is a run for every seed."""

    file: str
    base: Path | None
    output: Path
    seeds: list[int]
    rows: list[Row]
    common: Sequence[str] = ()
    """`--set` assignments for the base."""
    trust_remote_code: bool = False
    """Whether code in local files may run."""
    settings_of_all: tuple[Setting, ...] = ()
    """The settings of `set`."""
    tables: Tables = field(default_factory=dict)
    _documents: dict[Path, Document] = field(default_factory=dict, repr=False)

    def base_of(self, row: Row) -> Path:
        base = row.base or self.base
        assert base is not None
        return base

    def _document(self, base: Path) -> Document:
        """A spec, merged with the specs that it inherits from."""
        if base not in self._documents:
            self._documents[base] = read_with_base(base)
        return self._documents[base]

    def settings(self, row: Row, seed: int) -> list[Setting]:
        """All keys that a run sets: those of the row, and its name, folder and seed."""
        reserved = {"name": row.folder, "train.output": str(self.folder(row, seed)), "train.seed": seed}
        return [*row.settings, *(Setting(key, value, self.file) for key, value in reserved.items())]

    def assignments(self, row: Row, seed: int) -> list[str]:
        """The arguments of `--set` that make the spec of a run from that of the row's file."""
        return [*map(str, self.settings_of_all), *self.common, *map(str, self.settings(row, seed))]

    def folder(self, row: Row, seed: int) -> Path:
        return self.output / row.folder / f"seed-{seed}"

    def spec(self, row: Row, seed: int) -> tuple[Spec, Document]:
        """The validated spec of one run; `SpecError` for a fault of a row has the line of the sweep file."""
        document = deepcopy(self._document(self.base_of(row)))
        for setting in self.settings_of_all:
            put(document, setting.key, setting.value, setting.where)
        for assignment in self.common:
            override(document, assignment)
        for setting in self.settings(row, seed):
            put(document, setting.key, setting.value, setting.where)
        return validate_document(document, trust_remote_code=self.trust_remote_code), document


def load(path: str | Path, common: Sequence[str] = (), *, trust_remote_code: bool = False) -> Grid:
    """Read a sweep file and validate the spec of every row; raises `SpecError` with all problems."""
    document = read(path)
    if isinstance(document.data, dict) and {"encoder", "llm", "train"} & document.data.keys():
        text = "a spec of one model, expected a sweep: base, output, and rows or axes; vlm-train run trains a spec"
        raise SpecError([document.problem((), text)])
    config = validate(SweepConfig, document)
    base = spec_file(document, config.base, ("base",)) if config.base else None
    rows = [*named(config, document), *combined(config, document)]
    refuse_equal_folders(rows, document.file)
    grid = Grid(
        document.file,
        base,
        Path(config.output),
        config.seeds,
        rows,
        common,
        trust_remote_code,
        common_settings(config, document),
    )
    if config.tables:
        rows, tables = shared_runs(config, document, lambda row: grid.spec(row, config.seeds[0]))
        return replace(grid, rows=rows, tables=tables)
    problems: dict[Problem, None] = {}
    for row in rows:
        try:
            grid.spec(row, config.seeds[0])
        except SpecError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SpecError(list(problems))
    return grid
