"""Counts of a data file's images by folder: a missing folder is one line, not a line for each of its images."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from vlm_core.io.image_folder import ImageFolder

MOST_FOLDERS = 10
"""Folders with a line of their own; the others share one."""


@dataclass
class ImageCounts:
    """Images by folder: all that the data name, missing ones, and missing ones that exist with another extension."""

    folder: ImageFolder
    named: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    renamed: Counter[str] = field(default_factory=Counter)

    def add(self, name: object) -> str:
        """Count one image -> the folder of its name."""
        folder = os.path.dirname(name) if isinstance(name, str) else ""
        self.named[folder] += 1
        return folder

    def add_missing(self, name: str, folder: str) -> None:
        """Count an image that `add` has counted as missing."""
        self.missing[folder] += 1
        if len(self.folder.other_extensions(os.path.join(self.folder.root, name))) == 1:
            self.renamed[folder] += 1

    def lines(self) -> list[str]:
        """A line for each folder with missing images, those that miss most first."""
        ranked = self.missing.most_common()
        lines = [self._line(folder, count) for folder, count in ranked[:MOST_FOLDERS]]
        if rest := ranked[MOST_FOLDERS:]:
            total = sum(self.named[folder] for folder, _ in rest)
            lines.append(f"{len(rest)} more folders: {sum(n for _, n in rest)} of {total} images are missing")
        return lines

    def _line(self, folder: str, missing: int) -> str:
        path = os.path.join(self.folder.root, folder) if folder else self.folder.root
        if not os.path.isdir(path):
            return f"{path}: no such folder: all {missing} images in it are missing"
        line = f"{path}: {missing} of {self.named[folder]} images are missing"
        if renamed := self.renamed[folder]:
            line += (
                f"; {renamed} are there with another extension: any_extension: true in the dataset reads them"
            )
        return line
