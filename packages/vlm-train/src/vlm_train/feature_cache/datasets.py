"""Images by content: their keys, their cached features, and the images without cached features."""

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
from vlm_train.feature_cache.store import FeatureStore

ImageLocation = tuple[int, int]
"""(row, number of the image in the row)."""


@dataclass
class CachedFeatures:
    """Returns the cached features of an image, by the content of its file."""

    store: FeatureStore

    def __call__(self, source: ImageSource) -> Tensor:
        """(H, W, D). Raises `BadSample` for an invalid image, and `UserError` for a file that has changed."""
        data, name = image_bytes(source), image_name(source)
        features = self.store.get(image_key(data))
        if features is None:
            decode_image(data, name)
            raise UserError(
                f"{name}: has changed since its features were computed; run the command again to recompute them"
            )
        return features


@dataclass
class ImageKeys:
    """Returns the keys of a row's images; each process reads each file once."""

    keys: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, row: Row) -> list[bytes]:
        return [self._key(source) for source in row["image"]]

    def _key(self, source: ImageSource) -> bytes:
        name = image_name(source)
        if name not in self.keys:
            self.keys[name] = image_key(image_bytes(source))
        return self.keys[name]


class UncachedImages(Dataset[tuple[bytes, Tensor] | None]):
    """Images without cached features as (key, pixels); None for an unreadable image, which training reports."""

    def __init__(
        self, rows: Sequence[Row], locations: Sequence[ImageLocation], transform: Callable[[Any], Tensor]
    ) -> None:
        self.rows, self.locations, self.transform = rows, locations, transform

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> tuple[bytes, Tensor] | None:
        row, number = self.locations[index]
        try:
            source = self.rows[row]["image"][number]
            data = image_bytes(source)
            return image_key(data), self.transform(decode_image(data, image_name(source)))
        except BadSample:
            return None
