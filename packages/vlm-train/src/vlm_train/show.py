"""The end of a run on the terminal: the table, and where everything is."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from vlm_core.spec import Spec
from vlm_train.results import Results, columns
from vlm_train.rundir import MODEL, RunDir


def show(spec: Spec, folder: RunDir, results: Results) -> None:
    """Print accuracies in percent, then the files of the run."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    if results:
        table = Table(title=f"{spec.name}: held-out accuracy, %", title_justify="left", box=None)
        table.add_column("")
        for name in ("questions", *columns(results)):
            table.add_column(name, justify="right")
        for name, result in results:
            cells = [
                f"{result['accuracy'][c]:.1f}" if c in result["accuracy"] else "–" for c in columns(results)
            ]
            table.add_row(name, str(result["questions"]), *cells)
        console.print(table)
        console.print(
            f"\ntable {folder.path}/results.md, pictures {folder.path}/samples.png", highlight=False
        )
    console.print(f"loss curves {folder.path}/curves.png, model {folder.path}/{MODEL}", highlight=False)
