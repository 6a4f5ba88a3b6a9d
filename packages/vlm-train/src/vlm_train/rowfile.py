"""LLaVA rows of a file, each parsed when it is asked for."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlm_core import digests
from vlm_core.errors import BadSample, UserError
from vlm_core.rows import Row, Rows
from vlm_train.index_cache import opened, shared
from vlm_train.jsonscan import loads
from vlm_train.llava_row import ImageFolder, checked, human_first
from vlm_train.rowindex import index_of

log = logging.getLogger(__name__)


class LlavaRows(Rows):
    """Rows of a `.json` list or `.jsonl` file, with paths of images inside `folder`.

    A process holds the index, which processes of one machine share, and reads rows by their place in the file.
    """

    def __init__(self, path: Path, folder: ImageFolder) -> None:
        index = index_of(path)
        self.path, self.folder, self.table, self.sha256 = path, folder, index.rows, index.sha256
        self._handle: int | None = None
        self._version = self._seen()
        self._faults = {row: BadSample(*fault) for row, fault in index.faults.items()}
        for row, name in index.image_names():
            try:
                folder.locate(name, f"{path}: row {row}")
            except BadSample as error:
                self._faults.setdefault(row, error)
        if index.opened_by_gpt:
            text = "%s: in %d rows gpt speaks first; that turn is left out"
            log.warning(text, path, index.opened_by_gpt)

    def _seen(self) -> tuple[int, int]:
        facts = os.stat(self.path)
        return facts.st_size, facts.st_mtime_ns

    def __len__(self) -> int:
        return len(self.table)

    def faults(self) -> Mapping[int, BadSample]:
        return self._faults

    def digest(self) -> str:
        index = index_of(self.path)
        if index.sha256 != self.sha256:
            raise UserError(f"{self.path}: changed since this run began; start it again")
        good = ((row, name) for row, name in index.image_names() if row not in self._faults)
        images = [self.folder.locate(name, "") for _, name in good]
        faults = [[row, fault.reason] for row, fault in sorted(self._faults.items())]
        return digests.of("llava", self.path.suffix, self.sha256, faults, digests.of_images(images))

    def sizes(self) -> np.ndarray:
        return np.stack([self.table["chars"], self.table["images"]], axis=1)

    def row(self, index: int) -> Row:
        if index in self._faults:
            raise self._faults[index]
        place, where = self.table[index], f"{self.path}: row {index}"
        data = os.pread(self._open(), int(place["size"]), int(place["start"]))
        if zlib.crc32(data) != place["crc"]:
            raise UserError(f"{where} is not the one that was indexed: the file has changed; start it again")
        row = checked(human_first(loads(data, where))[0], where)
        return {**row, "image": [self.folder.locate(name, where) for name in row["image"]]}

    def _open(self) -> int:
        """A handle of this process; reading by position, it may be shared with forked ones."""
        if self._handle is None:
            if self._seen() != self._version:
                raise UserError(f"{self.path}: changed since this run began; start it again")
            self._handle = os.open(self.path, os.O_RDONLY)
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "table": shared(self.table)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "table": opened(state["table"])}

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            os.close(self._handle)  # pyright: ignore[reportArgumentType]
