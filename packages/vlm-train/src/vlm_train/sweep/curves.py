"""Accuracy along the training of a sweep's runs: whether each run has converged, and how soon it has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_train.checkpoint.run_dir import VALIDATION
from vlm_train.evaluation.held_out_answers import ALL
from vlm_train.report.plot_fonts import Lettering, drawing, save
from vlm_train.sweep.jobs import Job

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOLERANCE = 1.0
"""Largest distance from the best accuracy of a run that has converged, in points."""
LAST = 0.1
"""The share of the steps, from the end, in which it must be that near."""


@dataclass(frozen=True)
class Curve:
    """The validation accuracies of one run's last stage in percent, by step."""

    accuracy: Mapping[int, float]

    @property
    def converged(self) -> bool:
        """Whether every accuracy over the last tenth of the steps is within a point of the run's best."""
        steps = max(self.accuracy)
        last = [value for step, value in self.accuracy.items() if step > (1 - LAST) * steps]
        return min(last) >= max(self.accuracy.values()) - TOLERANCE

    @property
    def steps_to_learn(self) -> int:
        """The first measured step with an accuracy within 5 points of the run's best."""
        best = max(self.accuracy.values())
        return next(step for step, value in self.accuracy.items() if value >= best - 5)


Curves = Mapping[str, Mapping[int, Curve]]
"""By row and seed."""


def curves(jobs: Sequence[Job]) -> dict[str, dict[int, Curve]]:
    """The curves of all finished runs with `train.validation.accuracy_rows`."""
    result: dict[str, dict[int, Curve]] = {}
    for job in jobs:
        accuracy = _accuracy(job) if job.done else {}
        if accuracy:
            result.setdefault(job.row.name, {})[job.seed] = Curve(accuracy)
    return result


def _accuracy(job: Job) -> dict[int, float]:
    records: list[dict[str, Any]] = job.folder.records(VALIDATION)
    last = [record for record in records if record["name"] == job.last_stage]
    return {record["step"]: record["accuracy"][ALL] for record in last if ALL in record.get("accuracy", ())}


def draw(rows: Curves, path: Path) -> Path:
    """A panel for each row, with a line for each seed."""
    letters = Lettering(rows)
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    with drawing(letters.families) as figure:
        figure.set_size_inches(3.2 * columns, 2.4 * lines)
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, by_seed) in zip(panels.flat, rows.items(), strict=False):
            _panel(axes, letters.plain(name), by_seed)
        for axes in panels.flat[len(rows) :]:
            axes.axis("off")
        save(figure, path)
    return path


def _panel(axes: Axes, title: str, by_seed: Mapping[int, Curve]) -> None:
    for i, (seed, one) in enumerate(sorted(by_seed.items())):
        axes.plot(
            list(one.accuracy), list(one.accuracy.values()), ".-", color=f"C{i}", linewidth=1, label=str(seed)
        )
    axes.set_title(title, fontsize=9)
    axes.set(xlabel="step", ylabel="accuracy, %", ylim=(0, 102))
    axes.tick_params(labelbottom=True)  # the panel below may be missing
    axes.grid(alpha=0.3)
    axes.legend(title="seed", fontsize=6, title_fontsize=6, loc="lower right")
