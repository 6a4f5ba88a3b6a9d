"""MMBench's TSV files: a row a rotation of a question, its image in base64.

LLaVA reads them with pandas, whose words for "no value" also end a row's options: an option "None" is cut off, with
all that follow. That decides what models were asked, so it is kept; `cut` counts such rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_bench.readers.files import Row, read_text
from vlm_bench.readers.questions import LETTER
from vlm_core.errors import UserError

LETTERS = ("A", "B", "C", "D")
# pandas' own words (2.x), and what LLaVA's `is_none` adds, which ignores case
NO_VALUE = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
LONGEST_REFERENCE = 64
"""A shorter text in the column `image` is no image but the index of the row that has it."""


@dataclass(frozen=True)
class MMBenchRow:
    """One row: `index` names question and rotation, `cells` holds the file's columns."""

    index: int
    cells: dict[str, str]

    def value(self, column: str) -> str | None:
        """A cell's text, None for "no value"."""
        text = self.cells.get(column, "")
        return None if text in NO_VALUE or text.lower() in ("nan", "none") else text

    @property
    def options(self) -> dict[str, str]:
        """Texts by letter, up to the first without a value."""
        found: dict[str, str] = {}
        for letter in LETTERS:
            if (text := self.value(letter)) is None:
                break
            found[letter] = text
        return found

    @property
    def cut(self) -> bool:
        """Whether a text that reads as "no value" ended the options."""
        return any(self.cells.get(letter) for letter in LETTERS[len(self.options) :])

    @property
    def prompt(self) -> str:
        """Hint, question, options, and the instruction to say a letter."""
        hint = self.value("hint")
        lines = [f"{letter}. {text}" for letter, text in self.options.items()]
        return "\n".join([*([hint] if hint else []), self.cells["question"], *lines, LETTER])


def read_tsv(path: Path) -> list[MMBenchRow]:
    """Every row; an index that stands twice, or a row with another number of cells, is an error."""
    rows = list(_rows(path))
    indices = {row.index for row in rows}
    if len(indices) != len(rows):
        raise UserError(
            f"{path}: {len(rows) - len(indices)} of {len(rows)} rows have the index of another row"
        )
    if not rows:
        raise UserError(f"{path}: holds no questions")
    return rows


def _rows(path: Path) -> Iterator[MMBenchRow]:
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t")
    header = next(lines, [])
    if absent := {"index", "question", "A", "B", "image"} - set(header):
        raise UserError(f"{path}: columns missing: {', '.join(sorted(absent))}; is this an MMBench TSV file?")
    for cells in lines:
        where = f"{path}:{lines.line_num}"
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} cells, expected {len(header)}; is the file cut off?")
        row = Row(where, dict(zip(header, cells, strict=True)))
        if not row.data["index"].isdecimal():
            raise UserError(f"{where}: the index is {row.data['index']!r}, expected a number")
        yield MMBenchRow(int(row.data["index"]), row.data)


def images(rows: list[MMBenchRow]) -> dict[int, str]:
    """The base64 text of each row's image, references followed."""
    own = {row.index: row.cells["image"] for row in rows}
    found: dict[int, str] = {}
    for index, text in own.items():
        if len(text) <= LONGEST_REFERENCE and text.isdecimal():
            if int(text) not in own:
                raise UserError(f"row {index}: its image is that of row {text}, which is not in the file")
            text = own[int(text)]
        found[index] = text
    return found
