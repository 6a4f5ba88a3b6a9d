"""Keys of cached features: a hash of the image file, and a fingerprint of everything that computes features."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_core.interfaces import Encoder
from vlm_core.io.images import decode_image
from vlm_core.io.video.sources import VideoSource, file_digest
from vlm_core.views.layout import ViewLayout
from vlm_core.views.video_views import VideoProcessor
from vlm_train.feature_cache.store import KEY_BYTES, RECORD_VERSION

PIXELS_VERSION = 2
"""Changes when a file gives other pixels than before; 2: YUV matrix and range of videos, transparent grey of PNG."""


def image_key(data: bytes) -> bytes:
    """The key of an image: a digest of its file's bytes, independent of its name."""
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


def view_keys(data: bytes, layout: ViewLayout) -> list[bytes]:
    """The keys of an image's views. That of the overview is the image's: it is what an image without tiles gives."""
    whole, rows, columns = image_key(data), *layout.grid
    tiles = [
        hashlib.blake2b(
            whole + f"tile {number} of {rows}x{columns}, pad {layout.rule.pad}".encode(),
            digest_size=KEY_BYTES,
        ).digest()
        for number in range(rows * columns)
    ]
    if layout.overview is not None:
        tiles.insert(layout.overview, whole)
    return tiles


def frame_keys(source: VideoSource, video: VideoProcessor) -> list[bytes]:
    """The keys of a video's frames: a digest of its file, of how it is sampled, and the number of the frame."""
    whole = f"{file_digest(source.file)}, {video.sampling_of(source)}"
    return [
        hashlib.blake2b(f"{whole}, frame {number}".encode(), digest_size=KEY_BYTES).digest()
        for number in range(video.layout(source).views)
    ]


def sample_picture() -> bytes:
    """A PNG that reveals changes of decoding and transform: not square, finely structured, partly transparent."""
    y, x = np.mgrid[:61, :97]
    planes = [x * y * 7 + x * 3, x * x + 5 * y, y * y * 3 + x * 11, 96 + x + y]
    picture = Image.fromarray(np.stack([plane % 256 for plane in planes], axis=-1).astype(np.uint8), "RGBA")
    file = BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def sample_pixels(encoder: Encoder) -> Tensor:
    """The pixels that this encoder gets for the test picture."""
    return encoder.transform(decode_image(sample_picture(), "test picture"))


def encoder_fingerprint(encoder: Encoder, settings: dict[str, Any]) -> str:
    """A digest of everything that determines features: `settings` (JSON data), weights, buffers, and the transform.

    The transform is code, so its result for a test picture is hashed in its place.
    """
    text = json.dumps({**settings, "records": RECORD_VERSION, "pixels": PIXELS_VERSION}, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=12)
    tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    tensors["test picture"] = sample_pixels(encoder)
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0]):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
