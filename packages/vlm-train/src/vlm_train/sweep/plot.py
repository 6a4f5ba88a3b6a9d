"""The bar chart of a sweep: bars of means, a panel for each unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlm_core.evaluation.baselines import MAJORITY_ANSWER
from vlm_train.report.plot_fonts import Lettering, drawing, save
from vlm_train.sweep.metrics import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.22
"""Height of a line of the legend, in inches."""


class Bar(Protocol):
    """The values of a variant in a column."""

    @property
    def values(self) -> Mapping[int, float]: ...
    @property
    def mean(self) -> float: ...
    @property
    def spread(self) -> float | None: ...
    @property
    def partial(self) -> str: ...


Variants = Mapping[str, Mapping[Column, Bar]]


def plot(columns: Mapping[Column, str], variants: Variants, path: Path) -> Path:
    """Draw a group of bars per column: means, error bars of one spread, a dot per run; `majority answer` is a line."""
    panels = _panels(
        [column for column in columns if column.name != MAJORITY_ANSWER or column.kind != "control"]
    )
    letters = Lettering([*columns.values(), *variants])
    widths = [max(2.0, 1.7 * len(panel)) for panel in panels]
    size = sum(widths) + 2
    per_row = max(1, int(size * 12 / (8 + max(map(len, variants)))))
    with drawing(letters.families) as figure:
        figure.set_size_inches(size, 3.6 + _ROW * (len(variants) // per_row))
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for panel, ax in zip(panels, axes, strict=True):
            _panel(ax, panel, columns, variants, letters)
        _legend(figure, axes[0], variants, letters, per_row)
        save(figure, path)
    return path


def _panels(columns: Sequence[Column]) -> list[list[Column]]:
    """The columns of each panel: all percentages in one; each benchmark with points in one of its own."""
    percent = [column for column in columns if column.unit == "%"]
    points = [[column] for column in columns if column.unit == "points"]
    return [panel for panel in (percent, *points) if panel]


def _panel(
    axes: Any, panel: list[Column], titles: Mapping[Column, str], variants: Variants, letters: Lettering
) -> None:
    width = 0.8 / len(variants)
    for i, cells in enumerate(variants.values()):
        for x, column in enumerate(panel):
            if column in cells:
                _bar(axes, cells[column], x + (i - (len(variants) - 1) / 2) * width, width, f"C{i}")
    for column in titles:
        alone = [cells[column].mean for cells in variants.values() if column in cells]
        if column.kind == "control" and column.name == MAJORITY_ANSWER and alone and panel[0].unit == "%":
            axes.axhline(max(alone), color="black", linestyle=":", linewidth=1, label=MAJORITY_ANSWER)
    partial = {c for c in panel for cells in variants.values() if c in cells and cells[c].partial}
    labels = [titles[c] + ("\n(partial)" if c in partial else "") for c in panel]
    axes.set_xticks(range(len(panel)), [letters.wrapped(label, 18, lines=4) for label in labels])
    axes.set(ylabel=panel[0].unit, xlim=(-0.6, len(panel) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _bar(axes: Any, bar: Bar, at: float, width: float, color: str) -> None:
    axes.bar(at, bar.mean, 0.9 * width, yerr=bar.spread, capsize=2, color=color, alpha=0.6)
    axes.plot([at] * len(bar.values), list(bar.values.values()), ".", color="black", markersize=3)


def _legend(figure: Figure, axes: Any, variants: Variants, letters: Lettering, per_row: int) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=f"C{i}", alpha=0.6, label=letters.plain(name)) for i, name in enumerate(variants)]
    alone = axes.get_legend_handles_labels()[0]
    figure.legend(
        handles=[*handles, *alone], loc="outside upper center", ncols=per_row, fontsize=8, frameon=False
    )
