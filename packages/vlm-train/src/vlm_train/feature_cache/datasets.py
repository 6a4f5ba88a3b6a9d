"""Image files and their features: by content, so that a name says nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import ImageSource, decode_image, image_bytes, image_name
from vlm_core.rows import Row
from vlm_train.feature_cache.fingerprint import image_key
from vlm_train.feature_cache.store import Store

Place = tuple[int, int]
"""(row, which of its images)."""


@dataclass
class Known:
    """Finds the features of an image file by its content."""

    store: Store

    def __call__(self, source: ImageSource) -> Tensor:
        """(H, W, D). Raises `BadSample` for what is no image, and `UserError` for one that was another before."""
        data, name = image_bytes(source), image_name(source)
        found = self.store.get(image_key(data))
        if found is None:
            decode_image(data, name)
            raise UserError(
                f"{name}: has changed since its features were computed; the same command computes those it needs"
            )
        return found


@dataclass
class Keys:
    """The keys of a row's images; each file is read once by each process."""

    known: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, row: Row) -> list[bytes]:
        return [self._key(source) for source in row["image"]]

    def _key(self, source: ImageSource) -> bytes:
        name = image_name(source)
        if name not in self.known:
            self.known[name] = image_key(image_bytes(source))
        return self.known[name]


class Missing(Dataset[tuple[bytes, Tensor] | None]):
    """Images without features -> (key, pixels); None for those that can't be read, which training will report."""

    def __init__(
        self, rows: Sequence[Row], places: Sequence[Place], transform: Callable[[Any], Tensor]
    ) -> None:
        self.rows, self.places, self.transform = rows, places, transform

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[bytes, Tensor] | None:
        row, number = self.places[index]
        try:
            source = self.rows[row]["image"][number]
            data = image_bytes(source)
            return image_key(data), self.transform(decode_image(data, image_name(source)))
        except BadSample:
            return None
