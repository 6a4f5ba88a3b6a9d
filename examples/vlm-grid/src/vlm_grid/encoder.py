"""A patch embedding without positions or mixing of patches."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlm_core.interfaces import Encoder
from vlm_core.io.images import to_rgb


class PatchEmbedding(Encoder):
    """One linear map of a patch's pixels: random, unless a stage trains it."""

    def __init__(self, dim: int, patch: int, image_size: int) -> None:
        super().__init__()
        self.dim, self.patch, self.image_size = dim, patch, (image_size, image_size)
        self.embed = nn.Conv2d(3, dim, patch, stride=patch)

    def transform(self, image: Image.Image) -> Tensor:
        pixels = np.array(to_rgb(image).resize(self.image_size, Image.Resampling.BOX))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch, width // self.patch

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.embed((4 * pixel_values).to(self.embed.weight.dtype)).permute(0, 2, 3, 1)
