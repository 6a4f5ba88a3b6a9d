"""The runs of a sweep's tables: rows of equal specs share one, whatever their names are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vlm_core.errors import Problem, SpecError
from vlm_core.io.yaml_loader import Document
from vlm_core.spec.spec import Spec
from vlm_core.spec.validate import validate
from vlm_train.checkpoint.resume import differences, resolved
from vlm_train.config.train import TrainConfig
from vlm_train.sweep.config import SweepConfig
from vlm_train.sweep.rows import Row, refuse_equal_folders, table_row

SpecOf = Callable[[Row], tuple[Spec, Document]]
"""A row -> its spec, with the name, folder and seed that the sweep gives to its run."""
_OWN = ("name", "train.output")
"""Keys that differ between runs of equal specs."""


class _Run(NamedTuple):
    """The run of one or several rows; `place` is the first: table and row."""

    row: Row
    spec: Spec
    place: str


def shared_runs(
    config: SweepConfig, document: Document, spec_of: SpecOf
) -> tuple[list[Row], dict[str, dict[str, Row]]]:
    """The distinct runs, and the run of each row by table.

    Specs are compared by content, resolved with every default; name and folder don't count. Raises `SpecError` with the
    problems of all rows, such as two different specs for one folder.
    """
    runs: dict[str, _Run] = {}
    tables: dict[str, dict[str, Row]] = {}
    problems: dict[Problem, None] = {}
    for table, rows in config.tables.items():
        tables[table] = {}
        for name in rows:
            try:
                row = table_row(config, document, table, name)
                spec = _resolved(*spec_of(row))
                run = _Run(row, spec, f"{table}: {name}")
                known = runs.setdefault(_content(spec), run)
                if known is run:
                    _refuse_used_folder(run, runs, document, ("tables", table, name))
                tables[table][name] = known.row
            except SpecError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        raise SpecError(list(problems))
    distinct = [run.row for run in runs.values()]
    refuse_equal_folders(distinct, document.file)
    return distinct, tables


def _resolved(spec: Spec, document: Document) -> Spec:
    """The spec with every default of its `train` section."""
    return resolved(spec, validate(TrainConfig, document, ("train",))) if spec.train is not None else spec


def _content(spec: Spec) -> str:
    """The spec as text, without name and folder."""
    train = spec.train and {key: value for key, value in spec.train.items() if key != "output"}
    return spec.model_copy(update={"name": "", "train": train}).to_yaml()


def _refuse_used_folder(run: _Run, runs: dict[str, _Run], document: Document, at: tuple[str, ...]) -> None:
    """Raise `SpecError` if another run with another spec has the folder of this one."""
    for other in runs.values():
        if other is not run and other.row.folder == run.row.folder:
            changed = [each for each in differences(other.spec.to_yaml(), run.spec) if each.key not in _OWN]
            keys = "; ".join(f"{each.key} ({each.old}, {each.new})" for each in changed[:5])
            text = (
                f"would share the folder {run.row.folder!r} with {other.place}, whose spec differs in {keys}: "
                "give one of them another name (the name: of its spec file, or the row's if it has changes)"
            )
            raise SpecError([document.problem(at, text)])
