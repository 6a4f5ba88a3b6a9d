"""`vlm-train`: train what a spec says, stage by stage."""

from __future__ import annotations

import argparse
import time

from vlm_core.cli.common import add_debug, run
from vlm_core.spec import load_spec


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vlm-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "run",
        help="train; the same command again resumes",
        description="Train; the same command again resumes.",
    )
    train.add_argument("spec", help="a YAML spec with a train section")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec"
    )
    add_debug(train)
    return parser


def train(args: argparse.Namespace) -> int:
    began = time.monotonic()
    spec, document = load_spec(args.spec, args.set)
    from vlm_train.progress import duration
    from vlm_train.run import start
    from vlm_train.show import show

    folder, table = start(spec, document)
    show(spec, folder, table)
    print(f"done in {duration(time.monotonic() - began)}")
    return 0


def main() -> int:
    return run(_parser(), train)
