"""MMBench's TSV files: one row per rotation of a question, with the image in base64.

LLaVA reads them with pandas. A text that pandas reads as missing ends a row's options: an option "None" and all later
ones are dropped. Published answers depend on this, so the rule is the same here; `cut` marks such rows.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from vlm_bench.files.json_files import BOM, opened
from vlm_bench.files.json_object import nearly
from vlm_core.benchmark import EncodedImageInFile
from vlm_core.errors import UserError

LETTERS = ("A", "B", "C", "D")
COLUMNS = (
    "index",
    "question",
    "hint",
    *LETTERS,
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
)
# texts that pandas 2.x reads as missing; LLaVA's `is_none` adds "nan" and "none" in any case
NO_VALUE = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
LONGEST_REFERENCE = 64
"""A shorter text in the column `image` is not an image but the index of the row that has it."""


@dataclass(frozen=True)
class MMBenchRow:
    """One row: `index` names question and rotation, `cells` holds the file's columns but for the image itself."""

    index: int
    cells: dict[str, str]
    image: EncodedImageInFile | None = None

    def value(self, column: str) -> str | None:
        """A cell's text, None for "no value"."""
        text = self.cells.get(column, "")
        return None if text in NO_VALUE or text.lower() in ("nan", "none") else text

    @property
    def options(self) -> dict[str, str]:
        """Texts by letter, up to the first without a value."""
        options: dict[str, str] = {}
        for letter in LETTERS:
            if (text := self.value(letter)) is None:
                break
            options[letter] = text
        return options

    @property
    def cut(self) -> bool:
        """Whether a text that reads as "no value" ended the options."""
        return any(self.cells.get(letter) for letter in LETTERS[len(self.options) :])

    def prompt(self, instruction: str) -> str:
        """Hint, question, options, and the instruction to say a letter."""
        hint = self.value("hint")
        lines = [f"{letter}. {text}" for letter, text in self.options.items()]
        return "\n".join([*([hint] if hint else []), self.cells["question"], *lines, instruction])


def read_tsv(path: Path, stored: Path | None = None) -> list[MMBenchRow]:
    """Every row; an index that appears twice, or a row with another number of cells, is an error.

    Images stay in the file, or in `stored`, the same file unpacked.
    """
    try:
        rows = list(_rows(path, stored or path))
    except csv.Error as error:
        raise UserError(f"{path}: no table of cells between tabs: {error}") from None
    if not rows:
        raise UserError(f"{path}: holds no questions")
    twice = [index for index, count in Counter(row.index for row in rows).items() if count > 1]
    if twice:
        extra = len(rows) - len({row.index for row in rows})
        raise UserError(
            f"{path}: {extra} of {len(rows)} rows have the index of another row, first index {twice[0]}"
        )
    return rows


def _rows(path: Path, stored: Path) -> Iterator[MMBenchRow]:
    csv.field_size_limit(2**31 - 1)
    with opened(path) as file:
        lines = Lines(file, path, stored)
        reader = csv.reader(lines, delimiter="\t")
        header = next(reader, [])
        _check_header(path, header)
        for cells in reader:
            if cells:
                yield _row(f"{path}:{lines.number}", header, cells, lines)
            lines.forget()


def _row(where: str, header: list[str], cells: list[str], lines: Lines) -> MMBenchRow:
    if len(cells) != len(header):
        raise UserError(f"{where}: {len(cells)} cells, expected {len(header)}; is the file cut off?")
    data, image = dict(zip(header, cells, strict=True)), None
    if not (data["index"].isdecimal() and len(data["index"]) <= LONGEST_REFERENCE):
        raise UserError(f"{where}: the index is {data['index']!r:.80}, expected a number")
    if len(text := data.get("image", "")) > LONGEST_REFERENCE:
        image, data["image"] = lines.place(text), ""
    elif text and not text.isdecimal():
        raise UserError(
            f"{where}: the image is {text!r:.80}, expected base64 text or the index of another row"
        )
    return MMBenchRow(int(data["index"]), data, image)


def _check_header(path: Path, header: list[str]) -> None:
    if absent := {"index", "question", "A", "B"} - set(header):
        raise UserError(
            f"{path}: columns missing: {', '.join(sorted(absent))}; there are {', '.join(header)[:200] or 'none'}. "
            "Is this an MMBench TSV file?"
        )
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{path}: the column {twice[0]!r} appears twice")
    for name in header:
        if name not in COLUMNS and (near := nearly(name, COLUMNS)) and near not in header:
            raise UserError(f"{path}: unknown column {name!r}; did you mean {near!r}?")


class Lines:
    """A file's lines as text, with the offsets of those since the last `forget`; at most one row is in memory."""

    def __init__(self, file: BufferedIOBase, path: Path, stored: Path) -> None:
        self.file, self.path, self.stored = file, path, stored
        self.number = self.start = self.next = 0
        self.buffer: list[bytes] = []
        self.converted = False

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.number += 1
            self.buffer.append(line)
            self.next += len(line)
            if self.number == 1:
                self.converted = line.endswith(b"\r\n")  # then line ends inside of cells were converted, too
            text = _decoded(line, self.path, self.number)
            yield text.replace("\r\n", "\n") if self.converted else text

    def forget(self) -> None:
        """Drop the lines of the row that was read."""
        self.start, self.buffer = self.next, []

    def place(self, text: str) -> EncodedImageInFile:
        """The position of the current row's base64 text in the unpacked file."""
        content = text.encode()
        if (at := b"".join(self.buffer).find(content)) < 0:
            raise UserError(f"{self.path}:{self.number}: the image is not base64 text in one piece")
        return EncodedImageInFile(
            self.stored, self.start + at, len(content), hashlib.sha256(content).hexdigest()
        )


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return (line.removeprefix(BOM) if number == 1 else line).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}:{number}: not UTF-8 text; save the file as UTF-8") from None


def images(path: Path, rows: list[MMBenchRow]) -> dict[int, EncodedImageInFile]:
    """Each row's image, with references resolved; a row without one gets a `missing` image, as scoring needs none."""
    by_index = {row.index: row for row in rows}
    image_of: dict[int, EncodedImageInFile] = {}
    for row in rows:
        source = row
        if text := row.cells.get("image", ""):
            if int(text) not in by_index:
                raise UserError(
                    f"{path}: row {row.index}: its image is that of row {text}, which is not in the file"
                )
            source = by_index[int(text)]
            if source.cells.get("image"):
                raise UserError(
                    f"{path}: row {row.index}: its image is that of row {text}, which has none of its own"
                )
        image_of[row.index] = source.image or EncodedImageInFile(
            path, 0, 0, f"no image at index {source.index}"
        )
    return image_of
