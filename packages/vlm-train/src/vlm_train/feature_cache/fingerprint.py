"""What tells features apart: the bytes of the image, and everything that makes features of them."""

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
from vlm_train.feature_cache.store import KEY_BYTES, RECORDS


def image_key(data: bytes) -> bytes:
    """The key of an image: a digest of its file's bytes, whatever its name."""
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


def sample_picture() -> bytes:
    """A PNG that shows what reading and transforming do: not square, finely structured, partly transparent."""
    y, x = np.mgrid[:61, :97]
    planes = [x * y * 7 + x * 3, x * x + 5 * y, y * y * 3 + x * 11, 96 + x + y]
    picture = Image.fromarray(np.stack([plane % 256 for plane in planes], axis=-1).astype(np.uint8), "RGBA")
    file = BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def sample_pixels(encoder: Encoder) -> Tensor:
    """What this encoder gets of the test picture."""
    return encoder.transform(decode_image(sample_picture(), "test picture"))


def identity(encoder: Encoder, facts: dict[str, Any]) -> str:
    """A digest of what makes features: `facts` (JSON data), weights, constants, and the transform.

    A transform is code, so it is known by what it does: the pixels of a test picture.
    """
    known = json.dumps({**facts, "records": RECORDS}, sort_keys=True)
    digest = hashlib.blake2b(known.encode(), digest_size=12)
    tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    tensors["test picture"] = sample_pixels(encoder)
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0]):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
