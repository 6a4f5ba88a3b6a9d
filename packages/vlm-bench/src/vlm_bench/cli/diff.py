"""`vlm-bench diff`: two reports, or one report and its baselines, compared on the same questions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vlm_core.cli.common import local_path
from vlm_core.cli.output import say
from vlm_core.errors import UserError

if TYPE_CHECKING:
    from vlm_bench.report.diff import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vlm-bench diff`."""
    parser.add_argument("first", type=local_path, metavar="FIRST", help="a saved report, or a folder of them")
    parser.add_argument(
        "second",
        type=local_path,
        nargs="?",
        metavar="SECOND",
        help="the same of another model; without it, FIRST is compared with its baselines",
    )
    parser.add_argument(
        "--allow-partial", action="store_true", help="compare only the questions that both reports have"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(args: argparse.Namespace) -> int:
    """Print how two reports, or all of two folders, differ, and each report's baselines."""
    from vlm_bench.report.diff import to_json

    if args.second is None and args.allow_partial:
        raise UserError(
            "--allow-partial: needs a second report; baselines are compared on common questions anyway"
        )
    if args.second is not None and args.first.is_dir() != args.second.is_dir():
        raise UserError(f"{args.first} and {args.second}: a folder and a file; name two files or two folders")
    comparison, text = (_folders if args.first.is_dir() else _files)(args)
    say(*(to_json(comparison).split("\n") if args.json else text))
    return 0


def _files(args: argparse.Namespace) -> tuple[Comparison, list[str]]:
    from vlm_bench.report import diff

    if args.second is None:
        baselines = diff.compare_baselines(args.first)
        return baselines, diff.baseline_texts(baselines)
    difference = diff.compare(args.first, args.second, allow_partial=args.allow_partial)
    return difference, [
        *diff.lines(difference),
        *(line for path in (args.first, args.second) for line in diff.own_baselines(path)),
    ]


def _folders(args: argparse.Namespace) -> tuple[Comparison, list[str]]:
    from vlm_bench.cli.skipped import print_skipped
    from vlm_bench.report import diff
    from vlm_bench.report.collect import collect

    sides = [collect(folder) for folder in (args.first, args.second) if folder is not None]
    print_skipped(sides)
    if args.second is None:
        each = {p: diff.compare_baselines(path) for p, path in diff.by_protocol(sides[0]).items()}
        return each, [
            line for p, one in each.items() for line in (p, *diff.indented(diff.baseline_texts(one)))
        ]
    comparison = diff.compare_folders(*sides, allow_partial=args.allow_partial)
    return comparison, diff.folder_lines(comparison)
