"""Images that a benchmark's data file holds as base64 text."""

from __future__ import annotations

import base64
import hashlib
from functools import cached_property
from pathlib import Path

from vlm_core.errors import UserError
from vlm_core.io.files import open_regular


class EncodedImage:
    """An image stored as base64 text in a data file; equal texts are the same image."""

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def text(self) -> str:
        """The base64 text."""
        return self._text

    @cached_property
    def digest(self) -> str:
        """sha256 of the base64 text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def missing(self) -> bool:
        """Whether the data file lacks this image."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedImage) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.digest:.12})"

    def read(self) -> bytes:
        """The bytes of the image file; raises `UserError` if the text is not base64."""
        try:
            return base64.b64decode(self.text, validate=True)
        except ValueError as error:
            raise UserError(f"an image in a data file is not base64: {error}") from None


class EncodedImageInFile(EncodedImage):
    """An image whose base64 text is read from its data file on use: `length` bytes from byte `start`.

    `length` 0 means that the file lacks the image; `digest` then names its place.
    """

    def __init__(self, path: Path, start: int, length: int, digest: str) -> None:
        self.path, self.start, self.length, self.digest = path, start, length, digest

    @property
    def missing(self) -> bool:
        return self.length == 0

    def __str__(self) -> str:
        return f"{self.path}: {self.digest if self.missing else f'the image at byte {self.start}'}"

    @property
    def text(self) -> str:
        if self.missing:
            raise UserError(str(self))
        with open_regular(self.path) as file:
            file.seek(self.start)
            content = file.read(self.length)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise UserError(
                f"{self.path}: has changed since it was read: the image at byte {self.start} is not the same"
            )
        return content.decode("ascii")
