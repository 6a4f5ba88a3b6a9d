"""Rows of a JSON file, parsed on access."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vlm_core.errors import BadSample, UserError
from vlm_core.io import digests
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.video.sources import FileSource, ImageSource, StoredImage
from vlm_core.rows import Row, Rows
from vlm_train.data.conversation.columns import record_row
from vlm_train.data.conversation.image_values import InlineImage
from vlm_train.data.conversation.video_values import source_of
from vlm_train.data.index_cache import from_pickle, to_pickle
from vlm_train.data.json_files.image_counts import ImageCounts
from vlm_train.data.json_files.json_index import ROW, Index, index_of
from vlm_train.data.json_files.json_reader import loads

log = logging.getLogger(__name__)


class LlavaRows(Rows):
    """Rows of a `.json` list or `.jsonl` file; images are files inside `folder`, or inline.

    Only the index is in memory, shared by the processes of a machine. Rows are read by their byte range.
    """

    def __init__(self, path: Path, folder: ImageFolder, ignore: Sequence[str] = ()) -> None:
        index = index_of(path, ignore)
        self.path, self.folder, self.table, self.ignore = path, folder, index.rows, tuple(ignore)
        self.sha256 = index.sha256
        self._handle: int | None = None
        self._version = self._stat()
        self._faults: dict[int, BadSample] = {}
        for row, (reason, message, name) in index.faults.items():
            self._faults[row] = BadSample(reason, message, name or self._where(row))
        self._missing = self._look_up(index)
        if index.opened_by_gpt:
            text = "%s: in %d rows gpt speaks first; that turn is not used"
            log.warning(text, path, index.opened_by_gpt)
        for named, file in islice(folder.substitutes.items(), 1):
            text = "%s: %d images are files with another extension than in the data, such as %s for %s"
            log.warning(text, path, len(folder.substitutes), file, os.path.basename(named))

    def _look_up(self, index: Index) -> list[str]:
        """Look up every image and note the faults -> lines about missing images, by folder."""
        counts = ImageCounts(self.folder)
        for row, image, name in index.image_names():
            source = counts.add(image)
            try:
                self.folder.locate(image, self._where(row))
            except BadSample as error:
                self._faults.setdefault(row, error.of_row(name or self._where(row)))
                if error.reason == "missing":
                    counts.add_missing(image, source)
        return counts.lines()

    def _stat(self) -> tuple[int, int]:
        stat = os.stat(self.path)
        return stat.st_size, stat.st_mtime_ns

    def _where(self, index: int) -> str:
        return f"{self.path}: row {index}"

    def __len__(self) -> int:
        return len(self.table)

    def faults(self) -> Mapping[int, BadSample]:
        return self._faults

    def missing(self) -> list[str]:
        return self._missing

    def digest(self) -> str:
        index = index_of(self.path, self.ignore)
        if index.sha256 != self.sha256:
            raise UserError(f"{self.path}: changed since this run began; start it again")
        usable = ((row, image) for row, image, _ in index.image_names() if row not in self._faults)
        images = [self.folder.locate(image, "") for _, image in usable]
        faults = [[row, fault.reason] for row, fault in sorted(self._faults.items())]
        options = self.path.suffix, sorted(self.ignore)
        return digests.of("llava", options, self.sha256, faults, digests.of_images(images))

    def sizes(self) -> np.ndarray:
        return np.stack([self.table[name] for name in ("chars", "images", "videos")], axis=1)

    def row(self, index: int) -> Row:
        if index in self._faults:
            raise self._faults[index]
        row = self._parsed(index)
        try:
            return {**row, "image": [self._source(image, index, k) for k, image in enumerate(row["image"])]}
        except BadSample as error:
            raise error.of_row(row["id"]) from None

    def _parsed(self, index: int) -> Row:
        """Row `index` with its images as in the file: names or `InlineImage`."""
        entry, where = self.table[index], self._where(index)
        data = os.pread(self._open(), int(entry["size"]), int(entry["start"]))
        if zlib.crc32(data) != entry["crc"]:
            raise UserError(f"{where}: the file has changed since it was indexed; run the command again")
        return record_row(loads(data, where), where, where, ignore=self.ignore).row

    def _source(self, image: Any, index: int, k: int) -> ImageSource:
        return source_of(image, lambda value: self._file(value, index, k))

    def _file(self, image: Any, index: int, k: int) -> FileSource:
        if isinstance(image, InlineImage):
            return StoredImage(f"{self._where(index)}, image {k}", partial(self.image, index, k))
        return self.folder.locate(image, self._where(index))

    def image(self, index: int, k: int) -> bytes:
        """The bytes of a row's k-th image, an inline one. They are read again, so that rows in memory stay small."""
        return self._parsed(index)["image"][k].decode(f"{self._where(index)}, image {k}")

    def _open(self) -> int:
        """The file descriptor; forked processes may share it, since reads are positional."""
        if self._handle is None:
            if self._stat() != self._version:
                raise UserError(f"{self.path}: changed since this run began; start it again")
            self._handle = os.open(self.path, os.O_RDONLY)
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "table": to_pickle(self.table)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "table": from_pickle(state["table"], ROW)}

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            os.close(self._handle)  # pyright: ignore[reportArgumentType]
