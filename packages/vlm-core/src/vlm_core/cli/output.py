"""Printing of lines, table cells, log records and warnings; control characters in foreign text are escaped."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from vlm_core.markup.printable import printable

if TYPE_CHECKING:
    from rich.text import Text


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each argument as one line, with control characters and line feeds escaped."""
    print(*map(printable, lines), sep="\n", file=file or sys.stdout, flush=True)


def print_piece(piece: str) -> None:
    """Print a piece of an answer; control characters are escaped, as a terminal would execute them."""
    print(printable(piece, lines=True), end="", flush=True)


def inert(text: object, style: str = "") -> Text:
    """One line of text for rich; its markup and control characters have no effect."""
    from rich.text import Text

    return Text(printable(text), style=style)


@contextmanager
def printable_records() -> Iterator[None]:
    """Inside, log records and warnings are printable, also those of libraries, which quote the files they read.

    Further lines of a record's format are indented; each argument, and each warning, becomes one line.
    """
    make, form = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        log_record = make(*args, **kwargs)
        log_record.msg = printable(log_record.msg, lines=True).replace("\n", "\n  ")
        log_record.args = _arguments(log_record.args)
        return log_record

    def formatted(message: Warning | str, *args: Any, **kwargs: Any) -> str:
        return form(printable(message), *args, **kwargs)

    logging.setLogRecordFactory(record)
    warnings.formatwarning = formatted
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
        warnings.formatwarning = form


class _Console(logging.Handler):
    """INFO as lines on stdout, warnings and errors on stderr: the streams that `sys` has when a record comes."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            self._write(sys.stdout, 1, record)
        else:
            with suppress(OSError):  # a run does not end for a warning that nobody can read
                self._write(sys.stderr, 2, record)

    def _write(self, stream: TextIO, number: int, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n"
        try:
            stream.write(line)
            stream.flush()
        except RuntimeError:  # a signal handler interrupted a write to the same stream
            os.write(number, line.encode(errors="backslashreplace"))


@contextmanager
def console_records(*packages: str) -> Iterator[None]:
    """Inside, records of these packages appear on the console, those of level INFO included."""
    console = _Console()
    loggers = [logging.getLogger(name) for name in dict.fromkeys(packages)]
    ours = [each for each in loggers if not any(isinstance(h, _Console) for h in each.handlers)]
    levels = [logger.level for logger in ours]
    for logger in ours:
        logger.addHandler(console)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(ours, levels, strict=True):
            logger.removeHandler(console)
            logger.setLevel(level)


def _arguments(args: Any) -> Any:
    if isinstance(args, Mapping):
        return {name: _argument(value) for name, value in args.items()}
    return tuple(map(_argument, args)) if isinstance(args, tuple) else args


def _argument(value: object) -> object:
    """Numbers stay numbers, for `%d`."""
    return value if isinstance(value, int | float) else printable(value)
