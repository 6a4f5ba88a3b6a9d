"""Parts that third parties write: an encoder without parameters, and a connector that keeps running statistics."""

from typing import Literal

import numpy as np
import torch
from torch import nn

from vlm_core.interfaces import Connector, Encoder
from vlm_core.plugins.config import ConnectorConfig, EncoderConfig


class Patches(Encoder):
    """The pixel_values themselves, 8×8 as one patch."""

    dim, image_size = 3 * 8 * 8, (16, 24)

    def transform(self, image):
        small = image.convert("RGB").resize(self.image_size[::-1])
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255

    def grid(self, height, width):
        return height // 8, width // 8

    def forward(self, pixel_values):
        return nn.functional.pixel_unshuffle(pixel_values, 8).permute(0, 2, 3, 1)


class PatchesConfig(EncoderConfig):
    type: Literal["patches"] = "patches"

    def build(self, *, weights=True, assets=None):
        return Patches()


class Normed(Connector):
    """A projection whose outputs a batch norm scales, with dropout."""

    def __init__(self, d_in, d_out):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(d_in, d_out), nn.BatchNorm2d(d_out), nn.Dropout(0.1)

    def num_tokens(self, h, w):
        return h * w

    def forward(self, features):
        return self.drop(self.norm(self.linear(features).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))


class NormedConfig(ConnectorConfig):
    type: Literal["normed"] = "normed"

    def build(self, d_in, d_out):
        return Normed(d_in, d_out)
