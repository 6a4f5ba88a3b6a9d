"""The curves of a run as SVG, all stages on one axis of steps."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_core.markup.html import own_html
from vlm_train.report.plot_fonts import drawing, in_one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = list[tuple[float, float]]
_POINTS = 800
LARGEST = 1e30
"""An axis has no place for more."""
COLOURS = ("#2563a8", "#c2410c", "#15803d")


def offsets(metrics: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """How many steps precede each stage."""
    last: dict[int, int] = {}
    for m in metrics:
        last[m["stage"]] = max(last.get(m["stage"], 0), m["step"])
    found, total = {}, 0
    for stage in sorted(last):
        found[stage], total = total, total + last[stage]
    return found


def points(records: Sequence[Mapping[str, Any]], key: str, before: Mapping[int, int]) -> Points:
    """(step over all stages, value) wherever a record has a number under `key`; `lr` is the largest of its parts."""
    found = []
    for m in records:
        value = m.get(key)
        value = max(value.values(), default=None) if isinstance(value, dict) else value
        if value is not None and abs(value) <= LARGEST:  # not NaN either
            found.append((before.get(m["stage"], 0) + m["step"], value))
    return found


def thinned(points: Points) -> Points:
    """At most about `_POINTS` points: means of neighbours, so that no peak of the trend is invented."""
    width = -(-len(points) // _POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), max(1, width))]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def smooth(points: Points, share: float = 0.03) -> Points:
    """Running mean over `share` of the points."""
    width = max(1, int(len(points) * share))
    values = [y for _, y in points]
    return [
        (x, sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width)) for i, (x, _) in enumerate(points)
    ]


def curve(
    title: str, unit: str, lines: Mapping[str, Points], stages: Mapping[str, int], *, log: bool = False
) -> str:
    """One panel as an `<svg>` element: every line by name, the first with its running mean, stages told apart.

    matplotlib escapes its texts.
    """
    with drawing(["sans-serif"], {"svg.hashsalt": title, "svg.fonttype": "none"}) as figure:
        figure.set_size_inches(5.4, 2.5)
        axes = figure.add_subplot()
        _draw_lines(axes, lines)
        for name, start in stages.items():
            axes.axvline(start, color="#999", linewidth=0.8, linestyle=":")
            place = axes.get_xaxis_transform()
            axes.text(start, 1.01, f" {in_one_line(name)}", transform=place, fontsize=8, color="#555")
        values = [y for line in lines.values() for _, y in line]
        decade = min(values) > 0 and max(values) > 10 * min(values)  # less is hard to read on a log axis
        axes.set(xlabel="step", ylabel=in_one_line(unit), yscale="log" if log and decade else "linear")
        axes.set_title(in_one_line(title, 60), fontsize=10, loc="left", pad=14)
        axes.grid(alpha=0.25)
        if len(lines) > 1:
            axes.legend(fontsize=8)
        return _svg(figure)


def _draw_lines(axes: Any, lines: Mapping[str, Points]) -> None:
    for i, ((name, line), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        thin, label = thinned(line), in_one_line(name)
        if i == 0:
            axes.plot(*_columns(thin), color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(*_columns(smooth(thin)), color=colour, linewidth=1.7, label=label)
        else:
            axes.plot(*_columns(thin), "o-", color=colour, markersize=3, linewidth=1.2, label=label)


def _svg(figure: Figure) -> str:
    """The element alone. Its text stays text, so a browser's fonts count, not matplotlib's."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(text, format="svg", metadata={"Date": None})
    return own_html(text.getvalue()[text.getvalue().index("<svg") :])


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
