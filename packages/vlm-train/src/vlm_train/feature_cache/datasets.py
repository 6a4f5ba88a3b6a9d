"""Images by content: their keys, their cached features, and the images without cached features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlm_core.errors import BadSample, UserError
from vlm_core.io.images import ImageSource, decode_image, image_bytes, image_name, size_of
from vlm_core.io.sources import VideoSource
from vlm_core.rows import Row
from vlm_core.views.image_processor import ImageProcessor
from vlm_core.views.image_views import ImageInput, ImageViews
from vlm_core.views.video_views import VideoProcessor
from vlm_train.feature_cache.fingerprint import frame_keys, image_key, view_keys
from vlm_train.feature_cache.store import FeatureStore

ImageLocation = tuple[int, int, int]
"""(row, number of the image in the row, number of the view)."""


@dataclass
class CachedFeatures:
    """Returns the cached features of an image, by the content of its file."""

    store: FeatureStore
    processor: ImageProcessor
    video: VideoProcessor

    def __call__(self, source: ImageSource) -> ImageInput:
        """Its features (H, W, D), or those of its views or frames.

        Raises `BadSample` for an invalid image, and `UserError` for a file that has changed.
        """
        if isinstance(source, VideoSource):
            return self._frames(source)
        data, name = image_bytes(source), image_name(source)
        if self.processor.rule is None:
            return self._get(image_key(data), data, name)
        layout = self.processor.layout(size_of(data, name))
        views = [self._get(key, data, name) for key in view_keys(data, layout)]
        return self.processor.arranged(layout, features=torch.stack(views))

    def _frames(self, source: VideoSource) -> ImageViews:
        features = [self.store.get(key) for key in frame_keys(source, self.video)]
        found = [frame for frame in features if frame is not None]
        if len(found) < len(features):
            self.video(source)
            raise _changed(source.name)
        return ImageViews(features=torch.stack(found))

    def _get(self, key: bytes, data: bytes, name: str) -> Tensor:
        features = self.store.get(key)
        if features is None:
            decode_image(data, name)
            raise _changed(name)
        return features


def _changed(name: str) -> UserError:
    text = "has changed since its features were computed; run the command again to recompute them"
    return UserError(f"{name}: {text}")


@dataclass
class ImageKeys:
    """Returns the keys of the views of a row's images; each process reads each file once."""

    processor: ImageProcessor
    video: VideoProcessor
    keys: dict[str, list[bytes]] = field(default_factory=dict)

    def __call__(self, row: Row) -> list[list[bytes]]:
        return [self._keys(source) for source in row["image"]]

    def _keys(self, source: ImageSource) -> list[bytes]:
        name = image_name(source)
        if name not in self.keys and isinstance(source, VideoSource):
            self.keys[name] = frame_keys(source, self.video)
        elif name not in self.keys:
            data = image_bytes(source)
            plain = self.processor.rule is None
            layout = None if plain else self.processor.layout(size_of(data, name))
            self.keys[name] = [image_key(data)] if layout is None else view_keys(data, layout)
        return self.keys[name]


class UncachedImages(Dataset[list[tuple[bytes, Tensor]]]):
    """Images without cached features as (key, pixels) of their missing views; a video's views are its frames.

    The list is empty for an unreadable image, which training reports.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        missing: Sequence[ImageLocation],
        processor: ImageProcessor,
        video: VideoProcessor,
    ) -> None:
        self.rows, self.processor, self.video = rows, processor, video
        self.views: dict[tuple[int, int], list[int]] = {}
        for row, number, view in missing:
            self.views.setdefault((row, number), []).append(view)
        self.locations = list(self.views)

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> list[tuple[bytes, Tensor]]:
        row, number = self.locations[index]
        try:
            source = self.rows[row]["image"][number]
            if isinstance(source, VideoSource):
                return self._frames(source, self.views[row, number])
            data = image_bytes(source)
            image = decode_image(data, image_name(source))
        except BadSample:
            return []
        if self.processor.rule is None:
            return [(image_key(data), self.processor.transform(image))]
        layout, views = self.processor.layout(image.size), self.views[row, number]
        keys = view_keys(data, layout)
        return list(
            zip([keys[view] for view in views], self.processor.views(image, layout, views), strict=True)
        )

    def _frames(self, source: VideoSource, numbers: Sequence[int]) -> list[tuple[bytes, Tensor]]:
        frames, keys = self.video(source).values, frame_keys(source, self.video)
        return [(keys[number], frames[number]) for number in numbers]
