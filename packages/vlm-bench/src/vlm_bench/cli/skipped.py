"""The message about files in a folder of results that are not reports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_core.cli.output import say

if TYPE_CHECKING:
    from vlm_bench.report.collect import Results


def print_skipped(models: Sequence[Results]) -> None:
    """Print the number of skipped files of each folder, and the first ones."""
    from vlm_bench.report.collect import listed

    for model in models:
        if files := model.skipped:
            lines = (f"  {text}" for text in listed(files))
            say(f"{model.folder}: skipped {len(files)} files that are not reports:", *lines, file=sys.stderr)
