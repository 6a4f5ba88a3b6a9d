"""`vlm-bench`: score answer files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vlm_bench.benchmarks import pope, scienceqa
from vlm_bench.report import show, to_json
from vlm_core.cli.common import run

BENCHMARKS = {"pope": pope, "scienceqa": scienceqa}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vlm-bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    scoring = commands.add_parser("score", help="score an answer file; needs no GPU and takes seconds")
    names = scoring.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, benchmark in BENCHMARKS.items():
        child = names.add_parser(name, help=benchmark.HELP, description=benchmark.HELP)
        benchmark.add_arguments(child)
        child.add_argument("--allow-partial", action="store_true", help="score although answers are missing")
        child.add_argument("--json", action="store_true", help="print the report as JSON")
        # the shared runner adds --debug before the command; SUPPRESS lets it stand behind the command too
        child.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def score(args: argparse.Namespace) -> None:
    """Print one benchmark's report."""
    report = BENCHMARKS[args.benchmark].run(args)
    if args.json:
        print(to_json(report))
    else:
        show(report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 2 for a fault that the user can mend."""
    return run(build_parser(), score, argv)


if __name__ == "__main__":
    sys.exit(main())
