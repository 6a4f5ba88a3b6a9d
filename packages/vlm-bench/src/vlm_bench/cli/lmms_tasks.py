"""`vlm-bench lmms-tasks`: write task files for lmms-eval that read local data sets."""

from __future__ import annotations

import argparse

from vlm_bench.lmms.recipes import write_tasks
from vlm_core.cli.common import local_path
from vlm_core.cli.output import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "data", type=local_path, metavar="DIR", help="folder with one folder per data set, such as DIR/MMStar"
    )
    parser.add_argument(
        "--out", type=local_path, metavar="DIR", help="folder for the task files (default: lmms-tasks in DIR)"
    )
    parser.add_argument(
        "--allow-partial", action="store_true", help="continue although data sets have rows missing"
    )


def run(args: argparse.Namespace) -> int:
    """Write the task files; print what each one reads, and the command that uses them."""
    out = args.out or args.data / "lmms-tasks"
    say(
        *write_tasks(args.data, out, allow_partial=args.allow_partial),
        f"lmms_eval --model vlm --model_args pretrained=FOLDER --include_path {out} --tasks vlm_local",
    )
    return 0
