"""Writes a table as an .xlsx file, the only format that MMBench's server accepts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from vlm_core.errors import UserError


def workbook(columns: Sequence[str], rows: Iterable[Sequence[str | int | None]]) -> bytes:
    """One sheet. Texts are written as texts: an answer "=2+3" is no formula."""
    try:
        from openpyxl import Workbook
        from openpyxl.utils.exceptions import IllegalCharacterError
    except ImportError:
        raise UserError("writing .xlsx needs openpyxl: pip install 'vlm-bench[xlsx]'") from None
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for number, row in enumerate([columns, *rows], 1):
        for place, value in enumerate(row, 1):
            try:
                cell = sheet.cell(number, place, value)
            except IllegalCharacterError:
                raise UserError(
                    f"row {row[0]}: {value!r:.60} holds a control character, which .xlsx can't"
                ) from None
            if isinstance(value, str):
                cell.data_type = "s"
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()
