"""The `table.json` of a `vlm-train sweep` with tables: its figures, and the folders of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from vlm_bench.files.json_files import read_json
from vlm_core.errors import UserError
from vlm_core.io.strict_json import validated

FILE = "table.json"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, defer_build=True)


class Column(_Strict):
    """A metric; benchmarks of different protocols are different columns."""

    kind: Literal["accuracy", "control", "benchmark"]
    name: str
    unit: Literal["%", "points"]
    protocol: str


class Counts(_Strict):
    """Questions of one run."""

    scored: NonNegativeInt
    expected: NonNegativeInt
    partial: bool


class Cell(_Strict):
    """A metric of a run over its seeds, in percent or points; `questions` by seed, of benchmarks only."""

    mean: float
    spread: float | None
    values: dict[str, float]
    questions: dict[str, Counts] = {}


class RunRow(_Strict):
    """One spec: its folder, the number of its finished runs, and its cells by column."""

    name: str
    folder: str
    n: NonNegativeInt
    columns: dict[str, Cell]


class Sweep(_Strict):
    """`tables`: the run of each row, by title of the table and name of the row."""

    seeds: list[int]
    tables: dict[str, dict[str, str]]
    columns: dict[str, Column]
    rows: list[RunRow]

    @property
    def runs(self) -> dict[str, RunRow]:
        return {row.name: row for row in self.rows}


def read_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`; raises `UserError` for a folder without one, a damaged file, a sweep without tables."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; `vlm-train sweep` writes it, first when one of its runs has ended"
        )
    data = read_json(path)
    if not isinstance(data, dict) or "tables" not in data:
        raise UserError(
            f"{path}: not the table of a sweep, or that of an earlier version: run the sweep again"
        )
    sweep = Sweep.model_validate(validated(data, Sweep, f"{path}: a damaged table"))
    _check_names(sweep, path)
    if not sweep.tables:
        raise UserError(f"{path}: the sweep has no tables; {folder / 'table.md'} has its results")
    return sweep


def _check_names(sweep: Sweep, path: Path) -> None:
    """Raise `UserError` if a name in the file refers to nothing, or a folder leads out of the sweep's."""
    runs: list[Any] = [run for rows in sweep.tables.values() for run in rows.values()]
    columns = [column for row in sweep.rows for column in row.columns]
    unknown = [*(n for n in runs if n not in sweep.runs), *(n for n in columns if n not in sweep.columns)]
    if unknown:
        raise UserError(f"{path}: a damaged table: {unknown[0]!r:.80} is neither a run nor a column")
    for row in sweep.rows:
        if "/" in row.folder or row.folder in ("", ".", ".."):
            raise UserError(f"{path}: a damaged table: {row.folder!r:.80} is no folder of this sweep")
