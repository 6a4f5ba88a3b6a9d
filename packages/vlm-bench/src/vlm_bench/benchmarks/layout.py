"""Base classes of benchmark configs: paths in LLaVA's layout, image folders, and common fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlm_core.benchmark import Chance
from vlm_core.io.image_folder import ImageFolder
from vlm_core.io.paths import LocalFile
from vlm_core.plugins.config import BenchmarkConfig

File = LocalFile
Strictness = Annotated[
    Literal["official", "normalized"],
    Field(description="scoring rule: official (default), or without its known errors"),
]


Source = Annotated[
    Literal["llava", "official"],
    Field(description="source of the questions: LLaVA's files (default), or only the benchmark's own"),
]

ON_A_SERVER = Chance("undefined here: the right answers are on a server")
"""The chance of a split without public labels."""


class LayoutConfig(BenchmarkConfig):
    """A benchmark whose files have fixed places in LLaVA's folder `playground/data/eval`."""

    layout: ClassVar[dict[str, str]]
    """Default paths below `data`, by field."""
    data: File = Field(default=Path("."), description="folder in LLaVA's layout (default: here)")

    def file(self, name: str, variant: str = "") -> Path:
        """The path of field `name`, of split `variant` if there are several; a default path may be gzipped."""
        path = getattr(self, name)
        if path is not None:
            return path
        source = getattr(self, "source", "")
        if f"{name}.{source}" in self.layout:
            variant = source
        path = self.data / self.layout[f"{name}.{variant}" if variant else name]
        packed = path.with_name(f"{path.name}.gz")
        return packed if packed.is_file() and not path.exists() else path

    def present(self) -> bool:
        return not self.lacking()

    def lacking(self) -> str:
        absent = next((path for path in self.needed() if not path.exists()), None)
        return f"{absent} does not exist" if absent else ""

    def needed(self) -> list[Path]:
        """The files that inference and local scoring need, without images."""
        return [self.file("questions"), *([self.file("labels")] if "labels" in self.layout else [])]


class ImagesConfig(LayoutConfig):
    """A benchmark whose images are files, which must lie in its image folder."""

    symlinks: bool = Field(default=False, description="allow symbolic links to images outside their folder")

    def image_folder(self, name: str = "images", variant: str = "") -> ImageFolder:
        """The folder of the images, from field `name`."""
        return ImageFolder(str(self.file(name, variant)), self.symlinks, "--symlinks")


def file_field(description: str) -> File | None:
    return Field(default=None, description=description)
