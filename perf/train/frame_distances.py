"""Accuracy of runs of specs/moving.yaml by how many frames ago the shape asked about was seen.

    vlm-train run specs/moving.yaml
    uv run python -m perf.train.frame_distances mamba=runs/moving --plot docs/img/moving-distances.png

A line for each name of `name=folder` and length of clips. Runs of one name, which differ in their seed, are one line:
the mean of their accuracies, with the lowest and the highest. The interval of a single run is Wilson's at 95 %, over
its questions: it doesn't cover what another seed would change. The dashed line is the longest distance in the training
data.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_core.errors import UserError
from vlm_core.markup.markdown import table
from vlm_core.spec.spec import load_spec
from vlm_moving.clips import LONGEST_PASSAGE, Clip, clip
from vlm_moving.pictures import draw
from vlm_train.checkpoint.run_dir import SPEC, RunDir
from vlm_train.config.section import train_section
from vlm_train.evaluation.stage_evaluations import last_name
from vlm_train.report.plot_fonts import drawing, save

KINDS = ("color", "direction")
"""The kinds of questions that are about a shape at a distance."""
Z = 1.959964
"""The normal distribution's quantile of a two-sided 95 % interval."""
Hits = Mapping[tuple[str, int], Mapping[int, list[bool]]]
"""(kind, frames of the clip) -> distance -> whether each answer was right."""


def wilson(hits: list[bool]) -> tuple[float, float, float]:
    """Share of right answers and the ends of its interval, in percent."""
    n, share = len(hits), sum(hits) / len(hits)
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return 100 * share, 100 * (centre - half), 100 * (centre + half)


def hits_of(folder: Path) -> tuple[Hits, int]:
    """The answers after the last stage, and the longest distance that the run was trained on."""
    train = train_section(*load_spec(folder / SPEC))
    record = RunDir(folder).evaluation(last_name(train))
    if record is None:
        raise UserError(f"{folder}: the run has not finished: it has no evaluation {last_name(train)!r}")
    hits: dict[tuple[str, int], dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for answer in record["answers"]:
        *_, length, distance, kind = answer["id"].split("-")
        if kind in KINDS:
            hits[kind, int(length)][int(distance)].append(answer["right"])
    longest = max(data.frames[-1] for data in train.stages[-1].data)  # pyright: ignore[reportAttributeAccessIssue]
    return hits, longest - LONGEST_PASSAGE


def accuracy(runs: Sequence[list[bool]]) -> tuple[float, float, float]:
    """In percent: of one run `wilson`; of several the mean, the lowest and the highest."""
    if len(runs) == 1:
        return wilson(runs[0])
    shares = [100 * sum(hits) / len(hits) for hits in runs]
    return sum(shares) / len(shares), min(shares), max(shares)


def by_name(
    runs: Sequence[tuple[str, Hits]],
) -> dict[str, dict[tuple[str, int], dict[int, list[list[bool]]]]]:
    """name -> (kind, frames of the clip) -> distance -> the answers of each run that has some there."""
    result: dict[str, dict[tuple[str, int], dict[int, list[list[bool]]]]] = {}
    for name, hits in runs:
        for key, by_distance in hits.items():
            lines = result.setdefault(name, {}).setdefault(key, {})
            for distance, answers in by_distance.items():
                lines.setdefault(distance, []).append(answers)
    return result


def rows(runs: Sequence[tuple[str, Hits]]) -> Iterator[list[object]]:
    """Lines of the table: an accuracy for each name, kind, length and distance."""
    for name, lines in by_name(runs).items():
        for (kind, length), by_distance in sorted(lines.items()):
            for distance, answers in sorted(by_distance.items()):
                share, low, high = accuracy(answers)
                count = sum(map(len, answers))
                interval = f"{low:.1f} to {high:.1f}"
                yield [name, len(answers), kind, length, distance, count, f"{share:.1f}", interval]


def plot(runs: Sequence[tuple[str, Hits]], trained: int, path: Path) -> None:
    """A panel for each kind: accuracy with its interval against distance, which has a logarithmic axis from 0 on."""
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(name for name, _ in runs))}
    lengths = sorted({length for _, hits in runs for _, length in hits})
    styles = dict(zip(lengths, ("-", "--", ":", "-."), strict=False))
    with drawing() as figure:
        figure.set_size_inches(10, 3.6)
        for axes, kind in zip(figure.subplots(1, len(KINDS), sharey=True), KINDS, strict=True):
            for name, lines in by_name(runs).items():
                for length in lengths:
                    _line(axes, lines.get((kind, length), {}), colours[name], styles[length])
            axes.axhline(25, color="black", linestyle=":", linewidth=1)
            axes.axvline(trained, color="gray", linestyle="--", linewidth=1)
            axes.set_xscale("symlog", linthresh=1, base=2)
            axes.set_xticks(ticks := [0, 1, 2, 4, 8, 16, 32, 64, 128, 256], [str(tick) for tick in ticks])
            axes.set(title=kind, xlabel="frames ago", xlim=(-0.3, 330), ylim=(0, 103))
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("accuracy, %")
        _legend(figure, colours, styles)
        save(figure, path)


def _line(axes: Any, by_distance: Mapping[int, Sequence[list[bool]]], colour: str, style: str) -> None:
    points = [(distance, *accuracy(answers)) for distance, answers in sorted(by_distance.items())]
    if points:
        x, y, low, high = zip(*points, strict=True)
        axes.plot(x, y, color=colour, linestyle=style, marker="o", markersize=3)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _legend(figure: Any, colours: Mapping[str, str], styles: Mapping[int, Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color="black", linestyle=style, label=f"clips of {length} frames")
        for length, style in styles.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=8, frameon=False)


def strip(shown: Clip, per_row: int = 12, scale: int = 3, gap: int = 4) -> Image.Image:
    """The frames of a clip in rows, enlarged, on white."""
    pictures = [draw(frame) for frame in shown.frames()]
    side = scale * pictures[0].width + gap
    sheet = Image.new("RGB", (per_row * side + gap, -(-len(pictures) // per_row) * side + gap), "white")
    for i, picture in enumerate(pictures):
        large = picture.resize((side - gap, side - gap), Image.Resampling.NEAREST)
        sheet.paste(large, (gap + i % per_row * side, gap + i // per_row * side))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=FOLDER", help="a name in the legend and a run folder"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw this PNG file")
    parser.add_argument(
        "--strip", type=Path, metavar="FILE", help="also draw the frames of a clip as a PNG file"
    )
    arguments = parser.parse_args()
    found = [
        (name, *hits_of(Path(folder))) for name, _, folder in (run.partition("=") for run in arguments.runs)
    ]
    runs = [(name, hits) for name, hits, _ in found]
    head = ["run", "runs", "question", "frames", "frames ago", "questions", "accuracy, %", "interval"]
    print("\n".join(table([head, *rows(runs)], right=3)))
    if arguments.plot:
        plot(runs, max(trained for *_, trained in found), arguments.plot)
    if arguments.strip:
        strip(clip("test-1-0", 24, 8)).save(arguments.strip)


if __name__ == "__main__":
    main()
