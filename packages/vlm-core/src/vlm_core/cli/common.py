"""Shared by all commands: types of arguments, `--debug`, `--version`, error messages and exit codes."""

from __future__ import annotations

import argparse
import difflib
import faulthandler
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from vlm_core.cli.console import use_any_encoding
from vlm_core.cli.output import console_records, printable_records
from vlm_core.errors import UserError, choices, shown
from vlm_core.io.paths import expanded
from vlm_core.markup.printable import printable
from vlm_core.plugins.local_code import OPTION
from vlm_core.runtime.system_faults import system_fault

DTYPES = ("float32", "bfloat16", "float16")
LONGEST = 20_000
"""Limit in characters of a printed error message."""


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that takes no shortened options, and prints its help if a subcommand is missing."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        if self._subparsers is not None and message.startswith("the following arguments are required"):
            self.print_help(sys.stderr)
            self.exit(2, f"\n{self.prog}: expected one of these commands\n")
        if wrong := re.match(
            r"argument (COMMAND|BENCHMARK): invalid choice: (['\"])(.*)\2 \(choose", message
        ):
            message = f"unknown {wrong[1].lower()} {shown(wrong[3])}{choices(wrong[3], self._commands())}"
        if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            near = difflib.get_close_matches(unknown[1], self._options(), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        super().error(printable(message))

    def _commands(self) -> list[str]:
        """Names of the subcommands that `--help` lists."""
        return [listed.dest for action in self._actions for listed in getattr(action, "_choices_actions", ())]

    def _options(self) -> list[str]:
        """Names of the options of this parser and of its subcommands."""
        names = [name for action in self._actions for name in action.option_strings]
        commands = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        for parser in (parser for by_name in commands for parser in by_name.values()):
            names += parser._options() if isinstance(parser, Parser) else []
        return names


def path_text(text: str) -> str:
    """Argument type: the path of a file or folder as text, with `~` expanded as in a spec.

    An empty one, as of a shell's variable that is not set, is an error: it would count as an option left out.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty path")
    try:
        return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str, most: int = 2**31 - 1, least: int = 1) -> int:
    """Argument type: a whole number from `least` to `most`."""
    if not re.fullmatch("[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {shown(text)}")
    return int(text)


def share(text: str) -> float:
    """Argument type: a number from 0 to less than 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to less than 1, got {shown(text)}")
    return number


def seconds_above_zero(text: str) -> float:
    """Argument type: seconds above 0, at most a day."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds, above 0 and at most 86400, got {shown(text)}")
    return number


def local_path(text: str) -> Path:
    """Argument type: the path of a file or folder."""
    return Path(path_text(text))


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`, also to subcommand parsers: their default must not overwrite the main parser's value."""
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-remote-code`, the user's permission; no file can grant it."""
    parser.add_argument(
        OPTION,
        action="store_true",
        help="allow model code in a local folder to run; without this, such a folder is an error that lists the files",
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
    """Parse `argv` and run `command` -> exit code; `--version` prints the version of the distribution `package`.

    Exit codes: 2 for a `UserError` or an unusable file, 70 for a bug, 71 for out of memory, 130 for Ctrl-C, 141 for a
    closed pipe, 128 + N for a helper process killed by signal N. With `--debug` exceptions are raised instead.
    """
    use_any_encoding()
    _enable_faulthandler()
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
    except BrokenPipeError:  # the reader of the pipe has ended, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if fault := system_fault(error):
            print(f"{program}: {printable(fault, lines=True)}", file=sys.stderr)
            return fault.code
        if isinstance(error, OSError) and error.filename is not None:  # an unusable file is not a bug
            print(f"{program}: {printable(error.filename, 300)}: {error.strerror}", file=sys.stderr)
            return 2
        text = printable(error, LONGEST)
        print(f"{program}: internal error: {type(error).__name__}: {text}", file=sys.stderr)
        print("this is a bug; --debug shows where", file=sys.stderr)
        return 70


def _enable_faulthandler() -> None:
    """Print signal and stack of a crash outside Python (a truncated mapped file, a faulty driver)."""
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # stderr is not a file
            faulthandler.enable()
