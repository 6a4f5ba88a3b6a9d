"""What a run leaves to look at: a table, loss curves, and held-out images with question, answer and truth."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlm_core.images import load_image
from vlm_train.evaluate import Answer, question

Results = list[tuple[str, dict[str, Any]]]


def columns(results: Results) -> list[str]:
    """`all` and then every category that occurs."""
    return column_names(c for _, r in results for c in r["accuracy"])


def column_names(names: Iterable[str]) -> list[str]:
    """Each name once, in the order of columns: `all` first."""
    return sorted(set(names), key=lambda c: (c != "all", c))


def markdown(results: Results) -> str:
    """The results as a Markdown table: accuracy in percent."""
    names = columns(results)
    lines = [f"| | questions | {' | '.join(names)} |", f"|{'---|' * (len(names) + 2)}"]
    for name, result in results:
        cells = [f"{result['accuracy'][c]:.1f}" if c in result["accuracy"] else "–" for c in names]
        lines.append(f"| {name} | {result['questions']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Running mean over `share` of the curve, so that the trend is readable."""
    width = max(1, int(len(values) * share))
    return [
        sum(values[max(0, i - width + 1) : i + 1]) / (i + 1 - max(0, i - width + 1))
        for i in range(len(values))
    ]


def plot_curves(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel a stage: the loss of every step, its running mean, and the learning rate's shape."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys((m["stage"], m["name"]) for m in metrics))
    figure = Figure(figsize=(4 * len(stages), 3.2), layout="constrained")
    for i, (number, name) in enumerate(stages, 1):
        axes = figure.add_subplot(1, len(stages), i)
        own = [m for m in metrics if m["stage"] == number and m["loss"] is not None]
        steps, losses = [m["step"] for m in own], [m["loss"] for m in own]
        axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8)
        axes.plot(steps, _smooth(losses), color="tab:blue", linewidth=1.8)
        scale = "log" if losses and min(losses) > 0 else "linear"
        axes.set(
            title=name, xlabel="step", ylabel="loss (nats a target token)" if i == 1 else "", yscale=scale
        )
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)


def plot_samples(answers: Sequence[Answer], path: Path, count: int = 12) -> None:
    """A grid of held-out images, each with question, answer and truth; green is right."""
    from matplotlib.figure import Figure

    shown = answers[:: max(1, len(answers) // count)][:count]
    width = min(4, len(shown))
    height = -(-len(shown) // width)
    figure = Figure(figsize=(2.6 * width, 3.1 * height), layout="constrained")
    for i, a in enumerate(shown, 1):
        axes = figure.add_subplot(height, width, i)
        axes.axis("off")
        if a.row["image"]:
            axes.imshow(load_image(a.row["image"][0]))
        asked = textwrap.fill(question(a.row), 30)
        verdict = f"{a.said or '(nothing)'}" + ("" if a.right else f"   (truth: {a.truth})")
        axes.set_title(asked, fontsize=9)
        axes.text(
            0.5, -0.04, verdict, transform=axes.transAxes, ha="center", va="top", fontsize=10, weight="bold",
            color="tab:green" if a.right else "tab:red",
        )  # fmt: skip
    figure.savefig(path, dpi=130)
