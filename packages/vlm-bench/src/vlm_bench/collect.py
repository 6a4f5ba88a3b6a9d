"""A folder of results: saved reports, and answers that have no report yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_bench.published import PROTOCOLS, TITLES
from vlm_bench.readers.files import read_json, sha256
from vlm_bench.readers.run import ENDING, read_run
from vlm_core.errors import UserError

SCHEMA = 1
"""Of saved reports; another number is another format."""
NO_FIGURE = {
    "here": "unscored",
    "server": "needs submission",
    "judge": "needs a judge",
}
"""What a table says of answers without a report, by who scores them."""


@dataclass(frozen=True)
class Entry:
    """One answer file's result; `data` is a saved report, or what `vlm-bench run` says of answers without one."""

    file: Path
    data: Mapping[str, Any]

    @property
    def benchmark(self) -> str:
        return self.data["benchmark"]

    @property
    def scored(self) -> bool:
        return "units" in self.data

    @property
    def partial(self) -> bool:
        return bool(self.data.get("partial"))

    @property
    def comparable(self) -> bool:
        """Whether the paper's column was made by the same protocol, with as many answers."""
        return PROTOCOLS.get(self.benchmark) == (self.data.get("protocol"), self.data.get("expected"))

    @property
    def value(self) -> float:
        """As papers print it: percent, or points."""
        return self.data["score"] * (1 if self.data["unit"] == "points" else 100)

    @property
    def text(self) -> str:
        """The cell of a table."""
        if not self.scored:
            return NO_FIGURE[self.data.get("scored_by", "here")]
        other = self.benchmark in PROTOCOLS and not self.comparable
        return f"{self.value:.1f}{'*' if self.partial else ''}{'≠' if other else ''}"


@dataclass(frozen=True)
class Results:
    """One model's results, in the order of the paper's columns; other benchmarks follow by name."""

    name: str
    folder: Path
    entries: tuple[Entry, ...]

    def of(self, benchmark: str) -> list[Entry]:
        """More than one where a folder has several variants, such as TextVQA with and without OCR tokens."""
        return [entry for entry in self.entries if entry.benchmark == benchmark]


def collect(folder: Path) -> Results:
    """Everything below `folder`; results of two models in it are refused."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder of results; `vlm-bench run` and `score … --save` make them"
        )
    paths = sorted(folder.rglob("*.json"))
    reports = [Entry(path, data) for path in paths if (data := _report(path)) is not None]
    known = {digest for entry in reports for digest in entry.data["sha256"].values()}
    accounts = [path for path in paths if path.name.endswith(ENDING)]
    entries = reports + [entry for path in accounts if (entry := _unscored(path, known)) is not None]
    if not entries:
        raise UserError(
            f"{folder}: {len(paths)} JSON files, but no report; `vlm-bench score … --save FILE` writes one"
        )
    return Results(_name(folder, entries), folder, tuple(sorted(entries, key=_place)))


def _report(path: Path) -> dict[str, Any] | None:
    """A saved report, None for any other file."""
    data = read_json(path)
    if not isinstance(data, dict) or not {"schema", "protocol", "units"} <= data.keys():
        return None
    if data["schema"] != SCHEMA:
        raise UserError(
            f"{path}: a report of format {data['schema']}; this version reads {SCHEMA}. Score again"
        )
    return data


def _unscored(account: Path, known: Iterable[str]) -> Entry | None:
    """Answers that no report was made of, or that have changed since."""
    answers = account.with_name(account.name.removesuffix(ENDING))
    if answers.is_file() and sha256(answers) in known:
        return None
    return Entry(answers, read_run(answers))


def _name(folder: Path, entries: Iterable[Entry]) -> str:
    models = {
        str(about.get("model sha256") or about["model"]): "/".join(Path(str(about["model"])).parts[-2:])
        for entry in entries
        if (about := entry.data.get("settings", entry.data)).get("model")
    }
    if len(models) > 1:
        raise UserError(
            f"{folder}: results of {len(models)} models ({', '.join(sorted(models.values()))}); "
            "give each model's folder by itself"
        )
    return next(iter(models.values()), folder.resolve().name)


def _place(entry: Entry) -> tuple[int, str, str]:
    order = list(TITLES)
    known = entry.benchmark in TITLES
    return order.index(entry.benchmark) if known else len(order), entry.benchmark, str(entry.file)
