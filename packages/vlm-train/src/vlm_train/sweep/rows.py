"""The rows of a sweep: each a spec, and the keys that it sets."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from vlm_core.errors import SpecError, UserError, shown
from vlm_core.io.paths import MAX_NAME, expanded
from vlm_core.io.yaml_loader import Document, Path_, parse
from vlm_core.spec.inheritance import read_with_base, resolve_relative
from vlm_train.sweep.config import SPEC, SweepConfig

RESERVED = {
    "train": "",
    "train.output": "; `output` says where runs go",
    "train.seed": "; `seeds` does",
    "name": "",
}
"""Keys that rows can't set, and what sets them."""


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
    """A variant: its name in the table, the keys that it sets, and its spec if that is not the sweep's `base`."""

    name: str
    settings: tuple[Setting, ...]
    base: Path | None = None

    @property
    def folder(self) -> str:
        """The name as part of a path; it has no dots, so it is neither `..` nor the name of a file of the sweep."""
        return re.sub(r"[^\w+-]", "-", self.name)


def setting(document: Document, key: str, value: Any, at: Path_) -> Setting:
    if key in RESERVED:
        raise SpecError([document.problem(at, f"a row can't set {key}{RESERVED[key]}")])
    return Setting(key, value, document.where(at))


def common_settings(config: SweepConfig, document: Document) -> tuple[Setting, ...]:
    """The settings of `set`."""
    return tuple(setting(document, key, value, ("set", key)) for key, value in config.set.items())


def spec_file(document: Document, name: Any, at: Path_) -> Path:
    """The path of a spec that the sweep file names; raises `SpecError` at its line if there is no such file."""
    if not isinstance(name, str) or not name:
        raise SpecError([document.problem(at, f"expected the name of a spec file, got {name!r:.60}")])
    path = resolve_relative(document.file, expanded(name))
    if not os.path.isfile(path):
        text = f"no such file: {shown(str(path), 200)}; the path is relative to this file"
        raise SpecError([document.problem(at, text)])
    return path


def named(config: SweepConfig, document: Document) -> Iterator[Row]:
    """The rows of `rows`."""
    for name, changes in config.rows.items():
        items = (changes or {}).items()
        yield Row(name, tuple(setting(document, k, v, ("rows", name, k)) for k, v in items))


def combined(config: SweepConfig, document: Document) -> Iterator[Row]:
    """Every combination of `axes`, the last axis changing fastest."""
    if not config.axes:
        return
    for indices in product(*(range(len(values)) for values in config.axes.values())):
        settings = [
            setting(document, key, values[i], ("axes", key, i))
            for i, (key, values) in zip(indices, config.axes.items(), strict=True)
        ]
        yield Row(" ".join(map(_label, settings)), tuple(settings))


def _label(setting: Setting) -> str:
    """A setting in the name of a row: a text alone, a number with its key."""
    if isinstance(setting.value, str):
        return setting.value
    return f"{setting.key.rsplit('.', 1)[-1]}={json.dumps(setting.value)}"


def table_row(config: SweepConfig, document: Document, table: str, name: str) -> Row:
    """A row of a table. One that is a spec without changes has the name of that spec, others their own."""
    changes, at = dict(config.tables[table][name] or {}), ("tables", table, name)
    base = None
    if SPEC in changes:
        base = spec_file(document, changes.pop(SPEC), (*at, SPEC))
    elif config.base is None:
        raise SpecError([document.problem(at, "expected spec: FILE, since the sweep has no base")])
    settings = tuple(setting(document, key, value, (*at, key)) for key, value in changes.items())
    if base and not settings:
        data = read_with_base(base).data
        own = data.get("name") if isinstance(data, dict) else None
        name = own if isinstance(own, str) and own else name
    return Row(name, settings, base)


def refuse_equal_folders(rows: Sequence[Row], file: str) -> None:
    """Raise `UserError` for rows that would share a folder, and for names that are too long for one."""
    folders = Counter(row.folder for row in rows)
    for row in rows:
        if len(row.folder.encode()) > MAX_NAME:
            raise UserError(
                f"{file}: the values of row {shown(row.name)} give a name of more than {MAX_NAME} bytes; "
                "write it under `rows`, with a shorter name"
            )
        if folders[row.folder] > 1:
            raise UserError(f"{file}: two rows would share the folder {row.folder!r}; rename one")
