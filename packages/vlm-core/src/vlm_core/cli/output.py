"""Printing of lines, table cells, log records and warnings; control characters in foreign text are escaped."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from vlm_core.markup.printable import printable

if TYPE_CHECKING:
    from rich.text import Text


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each argument as one line, with control characters and line feeds escaped."""
    print(*map(printable, lines), sep="\n", file=file or sys.stdout, flush=True)


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


def _arguments(args: Any) -> Any:
    if isinstance(args, Mapping):
        return {name: _argument(value) for name, value in args.items()}
    return tuple(map(_argument, args)) if isinstance(args, tuple) else args


def _argument(value: object) -> object:
    """Numbers stay numbers, for `%d`."""
    return value if isinstance(value, int | float) else printable(value)
