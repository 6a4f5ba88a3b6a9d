"""A question of a benchmark, with its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_core.encoded_image import EncodedImage

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    `prompt` is the text for the model, with the answer instruction and without an image placeholder. `alias` is the id
    in official answer files if several questions share one; their answers are distinguished by the prompt. `other_ids`
    are further ids that answer files may use, shared or not. `more_images` follow `image`; the prompt comes after all.
    """

    id: str
    prompt: str
    image: Path | EncodedImage | None = None
    choices: tuple[str, ...] = ()
    alias: str | None = None
    other_ids: tuple[str, ...] = ()
    more_images: tuple[Path | EncodedImage, ...] = ()

    def __post_init__(self) -> None:
        assert self.image is not None or not self.more_images, "the first image is `image`"

    @property
    def images(self) -> tuple[Path | EncodedImage, ...]:
        """All images, in order."""
        return () if self.image is None else (self.image, *self.more_images)

    def open(self) -> PILImage | None:
        """The first image as upright RGB; None for a question without one."""
        return None if self.image is None else self._open(self.image)

    def open_images(self) -> list[PILImage]:
        """All images as upright RGB; of several, a `BadSample` says which one it is."""
        from vlm_core.io.images import each_image

        return each_image(self.images, self._open)

    def _open(self, image: Path | EncodedImage) -> PILImage:
        from vlm_core.io.images import decode_image, load_image

        if isinstance(image, Path):
            return load_image(image)
        return decode_image(image.read(), f"question {self.id}")
