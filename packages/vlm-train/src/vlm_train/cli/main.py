"""`vlm-train`: train, check and report vision-language models described by one YAML spec."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from vlm_core.cli.common import Parser, add_debug, add_trust, count, local_path, path_text, run, share
from vlm_train.cli import commands
from vlm_train.distributed import launch
from vlm_train.init.sizes import SIZES

Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
"""(name, function, help) -> the parser of a new subcommand."""
_up_to_256 = partial(count, most=256)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="vlm-train",
        description="Train a vision-language model. One YAML spec describes model, data and training stages.",
        epilog="vlm-train COMMAND --help shows the options of a command.",
    )
    subparsers = parser.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], short: str) -> argparse.ArgumentParser:
        subparser = subparsers.add_parser(name, help=short, description=run.__doc__)
        subparser.set_defaults(command=run)
        return subparser

    _add_init(command)
    _add_run(command)
    _add_launch(subparsers)
    _add_check(command)
    _add_preview(command)
    _add_plan(command)
    _add_report(command)
    _add_sweep(command)
    return parser


def _add_init(command: Command) -> None:
    parser = command("init", commands.init, "write a spec for your own data")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="name of the model; default: that of the data"
    )
    parser.add_argument(
        "--data", type=path_text, metavar="PATH", help="a JSON, JSON lines, parquet or .tar file, or a folder"
    )
    parser.add_argument(
        "--images",
        type=path_text,
        metavar="DIR",
        help="folder of the images that rows name; default: it is searched for beside the data",
    )
    parser.add_argument("--size", choices=SIZES, help="size of the model; default: tiny")
    parser.add_argument(
        "--held-out",
        type=share,
        metavar="SHARE",
        help="share of the images to hold out, 0 for none; default: 0.25 of few, less of many",
    )
    parser.add_argument("--out", type=path_text, metavar="FILE", help="spec to write; default: NAME.yaml")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    parser.add_argument("--yes", action="store_true", help="ask nothing and take the defaults")
    add_debug(parser)


def _add_run(command: Command) -> None:
    parser = command("run", commands.run_spec, "train all stages; run the same command again to resume")
    _add_spec(parser)
    parser.add_argument("--print", action="store_true", help="print the torchrun command and exit")
    _add_common(parser)
    launch.add_options(parser)


def _add_launch(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """The former command `launch`, with whatever words follow it; `--help` does not list it."""
    parser = subparsers.add_parser("launch", add_help=False, prefix_chars=" ")
    parser.add_argument("words", nargs="*")
    parser.set_defaults(command=commands.launch_renamed)


def _add_check(command: Command) -> None:
    parser = command("check", commands.check_data, "read all training data ahead of time and list bad rows")
    _add_spec(parser)
    parser.add_argument("--rows", type=count, metavar="N", help="evenly spaced rows per stage; default: all")
    parser.add_argument(
        "--num-workers",
        type=_up_to_256,
        metavar="N",
        help="data-loading processes; default: train.num_workers of the spec, 0 for auto",
    )
    parser.add_argument(
        "--report", type=path_text, metavar="FILE", help="write all bad rows to FILE as JSON lines"
    )
    _add_common(parser)


def _add_preview(command: Command) -> None:
    parser = command("preview", commands.preview, "show samples as the model gets them, with the loss mask")
    _add_spec(parser)
    parser.add_argument("--rows", type=count, default=4, metavar="N", help="rows per stage; default: 4")
    parser.add_argument(
        "--html",
        type=path_text,
        metavar="FILE",
        default="preview.html",
        help="HTML page to write; default: preview.html",
    )
    _add_common(parser)


def _add_plan(command: Command) -> None:
    parser = command("plan", commands.plan, "print the memory per process for each stage; needs no GPU")
    _add_spec(parser)
    parser.add_argument(
        "--nproc",
        type=partial(count, most=2**16),
        default=1,
        metavar="N",
        help="processes over all nodes; default: 1",
    )
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="type of GPU, such as A100-80G; default: every size of memory if the spec says auto",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also time a few steps of each stage on this machine: step time, hours, peak memory",
    )
    parser.add_argument(
        "--text-tokens",
        type=partial(count, most=10**9 - 1),
        default=256,
        metavar="N",
        help="with --measure: text tokens of a sample where the data are not on this machine; default: 256",
    )
    _add_common(parser)


def _add_report(command: Command) -> None:
    parser = command("report", commands.report, "write an HTML page about a run")
    parser.add_argument("run", type=local_path, help="run folder (train.output of the spec)")
    parser.add_argument(
        "--out", type=local_path, metavar="FILE", help="page to write; default: report.html in the run folder"
    )
    add_debug(parser)


def _add_sweep(command: Command) -> None:
    parser = command("sweep", commands.sweep, "train variants of a spec with several seeds and write a table")
    _add_spec(parser, "YAML file of the sweep: base, output, seeds, and rows or axes")
    parser.add_argument("--jobs", type=_up_to_256, default=1, metavar="N", help="parallel runs; default: 1")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and exit")
    _add_common(parser)


def _add_spec(parser: argparse.ArgumentParser, what: str = "YAML spec with a train section") -> None:
    parser.add_argument("spec", type=path_text, help=what)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the file, such as train.seed=1; repeatable",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_trust(parser)
    add_debug(parser)


def main() -> int:
    return run(_parser(), lambda args: args.command(args), package="vlm-train")
