"""A folder of results: saved reports, and answers that have no report yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_bench.files.json_files import sha256
from vlm_bench.files.run_metadata import ENDING, metadata_of
from vlm_bench.report.baselines import Baseline, not_above, read_baselines
from vlm_bench.report.published.paper_table import PROTOCOLS, TITLES
from vlm_bench.report.saved_reports import NoReportError, read_report
from vlm_core.errors import UserError

_NAMED = 10
"""Number of skipped files that are named; the others are counted."""

NO_FIGURE = {
    "here": "unscored",
    "server": "needs submission",
    "judge": "needs a judge",
}
"""A table's cell for answers without a report, by who scores them."""


@dataclass(frozen=True)
class Entry:
    """One answer file's result; `data` is a saved report, or the run's metadata of answers without one."""

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

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The baselines by name; none for answers without a report."""
        return {baseline.name: baseline for baseline in read_baselines(self.data)}

    @property
    def half_width(self) -> float | None:
        """Half the width of the score's 95 % interval, in the score's unit; None if the report has none."""
        bounds = self.data.get("interval") or None
        return bounds and (bounds[1] - bounds[0]) / 2 * (1 if self.data["unit"] == "points" else 100)

    @property
    def comparable(self) -> bool:
        """Whether the paper's column was made by the same protocol, with as many answers."""
        return PROTOCOLS.get(self.benchmark) == (self.data.get("protocol"), self.data.get("expected"))

    @property
    def value(self) -> float:
        """The figure in percent, or in points."""
        return self.data["score"] * (1 if self.data["unit"] == "points" else 100)

    @property
    def text(self) -> str:
        """The cell of a table."""
        if not self.scored:
            return NO_FIGURE[self.data.get("scored_by", "here")]
        other = self.benchmark in PROTOCOLS and not self.comparable
        marks = {"*": self.partial, "≠": other, "†": bool(not_above([*self.baselines.values()]))}
        return f"{self.value:.1f}{''.join(mark for mark, applies in marks.items() if applies)}"


@dataclass(frozen=True)
class Results:
    """One model's results, in the order of the paper's columns; other benchmarks follow by name."""

    name: str
    folder: Path
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...] = ()
    """JSON files that are not reports, each with the reason."""

    def of(self, benchmark: str) -> list[Entry]:
        """The results of a benchmark; several if the folder has variants, such as TextVQA without OCR tokens."""
        return [entry for entry in self.entries if entry.benchmark == benchmark]


def collect(folder: Path) -> Results:
    """Everything below `folder`; results of two models in it are refused."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder of results; `vlm-bench run` and `score … --save` make them"
        )
    paths = sorted(path for path in folder.rglob("*.json") if path.is_file())
    metadata_files = [path for path in paths if path.name.endswith(ENDING)]
    reports, other = _reports(path for path in paths if path not in set(metadata_files))
    known = {digest for entry in reports for digest in entry.data["sha256"].values()}
    unscored, strange = _unscored(metadata_files, known)
    other += strange
    entries = [*reports, *unscored]
    if not entries:
        raise UserError(
            f"{folder}: {len(paths)} JSON files, but no report; `vlm-bench score … --save FILE` writes one",
            *(f"  {text}" for text in listed(other)),
        )
    return Results(_name(folder, entries), folder, tuple(sorted(entries, key=_place)), tuple(other))


def listed(skipped: Sequence[str]) -> list[str]:
    """The first skipped files, and how many more."""
    more = len(skipped) - _NAMED
    return [*skipped[:_NAMED], *([f"and {more} more"] if more > 0 else [])]


def _reports(paths: Iterable[Path]) -> tuple[list[Entry], list[str]]:
    """Saved reports, and the reasons why other files are not reports."""
    entries: list[Entry] = []
    other: list[str] = []
    for path in paths:
        try:
            entries.append(Entry(path, read_report(path)))
        except NoReportError as error:
            other.append(str(error))
    return entries, other


def _unscored(metadata_files: Iterable[Path], known: Collection[str]) -> tuple[list[Entry], list[str]]:
    """Answers without a report, or changed since their report; and why other metadata files are invalid."""
    entries: list[Entry] = []
    other: list[str] = []
    for path in metadata_files:
        answers = path.with_name(path.name.removesuffix(ENDING))
        if answers.is_file() and sha256(answers) in known:
            continue
        try:
            metadata = metadata_of(answers)
            if baseline := metadata.get("baseline"):
                other.append(
                    f"{answers}: answers of {baseline}, which no report has: score the model's answers"
                )
            else:
                entries.append(Entry(answers, metadata))
        except UserError as error:
            if answers.suffix == ".jsonl":
                raise
            other.append(str(error))
    return entries, other


def _name(folder: Path, entries: Iterable[Entry]) -> str:
    models = {
        str(about.get("model sha256") or about["model"]): "/".join(Path(str(about["model"])).parts[-2:])
        for entry in entries
        if (about := entry.data.get("settings", entry.data)).get("model")
    }
    if len(models) > 1:
        raise UserError(
            f"{folder}: results of {len(models)} models ({', '.join(sorted(models.values()))}); "
            "name each model's folder separately"
        )
    return next(iter(models.values()), folder.resolve().name)


def _place(entry: Entry) -> tuple[int, str, str]:
    order = list(TITLES)
    known = entry.benchmark in TITLES
    return order.index(entry.benchmark) if known else len(order), entry.benchmark, str(entry.file)
