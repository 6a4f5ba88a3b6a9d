"""What every command does the same way: errors, exit codes, `--debug`, `--version`, tables."""

from __future__ import annotations

import argparse
import faulthandler
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from vlm_core.cli.console import use_any_encoding
from vlm_core.cli.output import console_records, printable_records
from vlm_core.errors import UserError, shown
from vlm_core.io.paths import expanded
from vlm_core.markup.printable import printable
from vlm_core.plugins.local_code import OPTION
from vlm_core.runtime.system_faults import system_fault

DTYPES = ("float32", "bfloat16", "float16")
LONGEST = 20_000
"""Characters of an error message that a terminal gets."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that lists its sub-commands where one is missing."""

    def error(self, message: str) -> NoReturn:
        if self._subparsers is not None and message.startswith("the following arguments are required"):
            self.print_help(sys.stderr)
            self.exit(2, f"\n{self.prog}: expected one of these commands\n")
        super().error(printable(message))


def path_text(text: str) -> str:
    """The type of an argument that names a file or folder, kept as text: `~` is expanded as in a spec."""
    try:
        return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str, most: int = 2**31 - 1, least: int = 1) -> int:
    """The type of an argument that is a whole number from `least` to `most`."""
    if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {shown(text)}")
    return int(text)


def local_path(text: str) -> Path:
    """The type of an argument that names a file or folder."""
    return Path(path_text(text))


def add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug`, also for the parsers of subcommands: unset, it must not undo the main parser's."""
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """`--trust-remote-code`, a person's permission, which no file can give."""
    parser.add_argument(
        OPTION,
        action="store_true",
        help="run the model code that lies in a local folder; without it, what would run is listed with its sha256",
    )


def versions(program: str, package: str) -> str:
    """`vlm-train 0.1.0 (vlm-core 0.1.0, torch 2.9.0, Python 3.11.9)`; imports none of them."""

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:  # run from sources
            return "not installed"

    others = [f"{name} {installed(name)}" for name in ("vlm-core", "torch")]
    return f"{program} {installed(package)} ({', '.join(others)}, Python {sys.version.split()[0]})"


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    package: str = "vlm-core",
) -> int:
    """Parse and run. A `UserError` and a file that fails give 2, Ctrl-C 130, a closed pipe 141, a bug 70,
    memory that ran out 71, a helper process that signal N killed 128 + N.

    `--debug` raises instead. `package` is the distribution whose version `--version` prints.
    """
    use_any_encoding()
    _speak_when_killed()
    add_debug(parser)
    parser.add_argument("--version", action="version", version=versions(parser.prog, package))
    args = parser.parse_args(argv)
    with printable_records(), console_records("vlm_core", package.replace("-", "_")):
        return _run(parser.prog, command, args)


def _run(program: str, command: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    if getattr(args, "debug", False):
        return command(args) or 0
    try:
        return command(args) or 0
    except UserError as error:
        print(f"{program}: {printable(error, LONGEST, lines=True)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if fault := system_fault(error):
            print(f"{program}: {printable(fault, lines=True)}", file=sys.stderr)
            return fault.code
        if isinstance(error, OSError) and error.filename is not None:  # a file that can't be used is no bug
            print(f"{program}: {printable(error.filename, 300)}: {error.strerror}", file=sys.stderr)
            return 2
        text = printable(error, LONGEST)
        print(f"{program}: internal error: {type(error).__name__}: {text}", file=sys.stderr)
        print("this is a bug; --debug shows where", file=sys.stderr)
        return 70


def _speak_when_killed() -> None:
    """A crash below Python (a mapped file cut short, a faulty driver) prints its signal and where it happened."""
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # a standard error that is no file
            faulthandler.enable()
