"""Curves of a run as SVG, with the steps of all stages on one axis."""

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
"""Larger values are not drawn: matplotlib fails on them."""
COLOURS = ("#2563a8", "#c2410c", "#15803d")


def offsets(metrics: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """How many steps precede each stage."""
    last: dict[int, int] = {}
    for m in metrics:
        last[m["stage"]] = max(last.get(m["stage"], 0), m["step"])
    offset, total = {}, 0
    for stage in sorted(last):
        offset[stage], total = total, total + last[stage]
    return offset


def points(records: Sequence[Mapping[str, Any]], key: str, before: Mapping[int, int]) -> Points:
    """(step over all stages, value) of records with a number under `key`; of a mapping, as `lr`, the largest."""
    result = []
    for m in records:
        value = m.get(key)
        value = max(value.values(), default=None) if isinstance(value, dict) else value
        if value is not None and abs(value) <= LARGEST:  # not NaN either
            result.append((before.get(m["stage"], 0) + m["step"], value))
    return result


def thinned(points: Points) -> Points:
    """At most `_POINTS` points, each the mean of adjacent ones: subsampling would show random peaks."""
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
    """One panel as an `<svg>` element: named lines, the first with its running mean, and the begin of each stage.

    matplotlib escapes texts for XML.
    """
    with drawing(["sans-serif"], {"svg.hashsalt": title, "svg.fonttype": "none"}) as figure:
        figure.set_size_inches(5.4, 2.5)
        axes = figure.add_subplot()
        _draw_lines(axes, lines)
        for name, start in stages.items():
            axes.axvline(start, color="#999", linewidth=0.8, linestyle=":")
            transform = axes.get_xaxis_transform()
            axes.text(start, 1.01, f" {in_one_line(name)}", transform=transform, fontsize=8, color="#555")
        values = [y for line in lines.values() for _, y in line]
        decade = min(values) > 0 and max(values) > 10 * min(
            values
        )  # a smaller range is hard to read on a log axis
        axes.set(xlabel="step", ylabel=in_one_line(unit), yscale="log" if log and decade else "linear")
        axes.set_title(in_one_line(title, 60), fontsize=10, loc="left", pad=14)
        axes.grid(alpha=0.25)
        if len(lines) > 1:
            axes.legend(fontsize=8)
        return _svg(figure)


def _draw_lines(axes: Any, lines: Mapping[str, Points]) -> None:
    for i, ((name, line), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        points, label = thinned(line), in_one_line(name)
        if i == 0:
            axes.plot(*_columns(points), color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(*_columns(smooth(points)), color=colour, linewidth=1.7, label=label)
        else:
            axes.plot(*_columns(points), "o-", color=colour, markersize=3, linewidth=1.2, label=label)


def _svg(figure: Figure) -> str:
    """The `<svg>` element without XML header. Text is kept as text, drawn with the browser's fonts."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(text, format="svg", metadata={"Date": None})
    return own_html(text.getvalue()[text.getvalue().index("<svg") :])


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
