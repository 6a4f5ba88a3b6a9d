"""Results of a run: the table of accuracies, loss curves, and a grid of images with questions and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_core.errors import UserError
from vlm_core.evaluation.baselines import MAJORITY_ANSWER
from vlm_core.io.images import load_image
from vlm_core.markup import markdown
from vlm_core.rows import Row
from vlm_train.checkpoint.run_dir import EVALS, RESULTS, RunDir
from vlm_train.evaluation.controls import CHANGES
from vlm_train.evaluation.held_out_answers import ALL, Answer, question
from vlm_train.report import benchmark_table
from vlm_train.report.plot_fonts import Lettering, drawing, save

Record = Mapping[str, Any]
Results = list[tuple[str, dict[str, Any]]]
NOTHING = "–"


def of(run: RunDir, stages: Iterable[str]) -> Results:
    """(name, record) of a run's evaluations: after each stage, then the controls."""
    after = [f"after {stage}{kind}" for stage in stages for kind in ("", ", average")]
    names = [*after, *CHANGES, MAJORITY_ANSWER]
    return [(name, record) for name in names if (record := run.evaluation(name))]


def columns(results: Results) -> list[str]:
    """`all`, then every category."""
    return column_names(c for _, r in results for c in r["accuracy"])


def column_names(names: Iterable[str]) -> list[str]:
    """Each name once, in the order of columns: `all` first."""
    return sorted(set(names), key=lambda c: (c != ALL, c))


def texts(results: Results) -> list[list[str]]:
    """The table as rows of text, the head first; accuracy in percent."""
    names = columns(results)
    rows = [
        [
            name,
            str(r["questions"]),
            *(f"{r['accuracy'][c]:.1f}" if c in r["accuracy"] else NOTHING for c in names),
        ]
        for name, r in results
    ]
    return [["", "questions", *names], *rows]


def title(results: Results) -> str:
    """The title of the table: "held-out accuracy" only if no stage trains on the rows."""
    return metric([record.get("overlap") for _, record in results])


def metric(overlaps: Iterable[Record | None]) -> str:
    """The name of an accuracy, given the overlaps of its rows with training data (None: unknown)."""
    records = list(overlaps)
    if any(overlap is None for overlap in records):
        return "accuracy, %"
    largest = max((o for o in records if o), key=lambda o: o["trained_on"], default=None)
    if largest is None or not largest["trained_on"]:
        return "held-out accuracy, %"
    return f"accuracy, % ({largest['trained_on']} of {largest['rows']} rows are trained on)"


def notes(results: Results) -> list[str]:
    """Notes below the table: rows that are trained on or left out."""
    lines: dict[str, None] = {}
    for name, record in results:
        overlap = record.get("overlap") or {"stages": {}}
        lines |= {
            f"{count} of {overlap['rows']} rows are also in stage {stage}'s data": None
            for stage, count in overlap["stages"].items()
            if count
        }
        lines |= {
            f"{name}: {count} rows are left out: {why}": None
            for why, count in record.get("left_out", {}).items()
        }
        if training := record.get("training_rows", {}):
            counted, unreadable, stage = training["counted"], training["unreadable"], training["stage"]
            if unreadable:
                lines[f"{name}: {counted} rows of stage {stage} are counted, {unreadable} cannot be read"] = (
                    None
                )
    return list(lines)


def write_all(run: RunDir, stages: Sequence[str], asked: Sequence[Row]) -> Results:
    """Write tables and pictures of a finished run, whose held-out rows are `asked` -> `of`."""
    draw(run, "curves.png", lambda path: plot_curves(run.metrics(), path))
    results = of(run, stages)
    write(run, results)
    if results:
        final = dict(results)[f"after {stages[-1]}"]
        pairs = zip(asked, final["answers"], strict=True)
        answers = [Answer(row, answer["said"], answer["truth"]) for row, answer in pairs]
        draw(run, "samples.png", lambda path: plot_samples(answers, path))
    return results


def write(run: RunDir, results: Results) -> None:
    """Write `results.md` if there are evaluations or benchmark scores."""
    evals = run.records(EVALS)
    if results or evals:
        run.write(RESULTS, as_markdown(results, evals))


def as_markdown(results: Results, evals: Sequence[Record] = ()) -> str:
    """The tables of accuracies and benchmark scores as Markdown, each with its title and notes."""
    parts = []
    if results:
        heading = title(results)
        comments = [f"{heading[0].upper()}{heading[1:]}", *notes(results)]
        lines = [*markdown.table(texts(results)), "", *(f"- {markdown.text(line)}" for line in comments)]
        parts.append("\n".join(lines) + "\n")
    if evals:
        head, rows = benchmark_table.table(evals)
        parts.append("\n".join([*markdown.table([head, *rows]), "", benchmark_table.NOTE]) + "\n")
    return "\n".join(parts)


def _smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Running mean over `share` of the curve."""
    width = max(1, int(len(values) * share))
    return [
        sum(values[max(0, i - width + 1) : i + 1]) / (i + 1 - max(0, i - width + 1))
        for i in range(len(values))
    ]


def draw(run: RunDir, name: str, plot: Callable[[Path], None]) -> None:
    """Draw a picture in the run folder. A write error is only a warning, since no result depends on it."""
    try:
        plot(run.path / name)
    except UserError as error:
        run.warn(str(error))


def plot_curves(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Write loss curves, one panel per stage: every step and the running mean. Without metrics nothing is written."""
    if not metrics:
        return
    stages = list(dict.fromkeys((m["stage"], m["name"]) for m in metrics))
    letters = Lettering(name for _, name in stages)
    with drawing(letters.families) as figure:
        figure.set_size_inches(4 * len(stages), 3.2)
        for i, (number, name) in enumerate(stages, 1):
            axes = figure.add_subplot(1, len(stages), i)
            records = [m for m in metrics if m["stage"] == number and m["loss"] is not None]
            steps, losses = [m["step"] for m in records], [m["loss"] for m in records]
            axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
            axes.plot(steps, _smooth(losses), color="tab:blue", linewidth=1.8)
            scale = "log" if losses and min(losses) > 0 else "linear"
            unit = "loss (nats per target token)" if i == 1 else ""
            axes.set(title=letters.wrapped(name, 40), xlabel="step", ylabel=unit, yscale=scale)
            axes.grid(alpha=0.3, which="both")
        save(figure, path)


def plot_samples(answers: Sequence[Answer], path: Path, count: int = 12) -> None:
    """Write a grid of images with question, answer and truth; right answers are green, wrong ones red."""
    selected = answers[:: max(1, len(answers) // count)][:count]
    letters = Lettering(text for a in selected for text in (question(a.row), a.text, a.truth))
    width = min(4, len(selected))
    height = -(-len(selected) // width)
    with drawing(letters.families) as figure:
        figure.set_size_inches(2.6 * width, 3.1 * height)
        for i, answer in enumerate(selected, 1):
            _sample(figure.add_subplot(height, width, i), answer, letters)
        save(figure, path)


def _sample(axes: Any, answer: Answer, letters: Lettering) -> None:
    axes.axis("off")
    if answer.row["image"]:
        axes.imshow(load_image(answer.row["image"][0]))
    axes.set_title(letters.wrapped(question(answer.row), 30, lines=4), fontsize=9)
    caption = letters.wrapped(answer.text or "(empty)", 26)
    truth = letters.wrapped(f"(truth: {answer.truth})", 26)
    if not answer.right:
        caption += ("   " if len(caption + truth) < 30 else "\n") + truth
    axes.text(
        0.5,
        -0.04,
        caption,
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=10,
        weight="bold",
        color="tab:green" if answer.right else "tab:red",
    )
