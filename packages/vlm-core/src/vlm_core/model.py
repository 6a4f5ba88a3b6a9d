"""The model: three parts and the splice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlm_core.interfaces import Connector, Encoder, LanguageModel
from vlm_core.numerics.low_precision_matmul import fast_products

PARTS = ("encoder", "connector", "llm")


class VLM(nn.Module):
    """encoder → connector → splice into the embedded text → language model (paper, section 3.1)."""

    def __init__(self, encoder: Encoder, connector: Connector, llm: LanguageModel) -> None:
        super().__init__()
        self.encoder, self.connector, self.llm = encoder, connector, llm

    def image_tokens(self, pixels: Tensor) -> int:
        """Positions that one image (3, height, width) takes in the sequence."""
        return self.connector.num_tokens(*self.encoder.grid(*pixels.shape[-2:]))

    def feature_tokens(self, features: Tensor) -> int:
        """Positions that an image takes whose features are (H, W, D)."""
        return self.connector.num_tokens(*features.shape[:2])

    @property
    def image_tokens_by_default(self) -> int:
        """Positions that an image of the encoder's own size takes."""
        return self.connector.num_tokens(*self.encoder.grid(*self.encoder.image_size))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, height, width) -> features (N, H, W, D), without gradient unless the encoder is trained.

        An encoder without parameters gives the dtype of its pixels.
        """
        trained = any(p.requires_grad for p in self.encoder.parameters())
        with (
            fast_products(next(self.encoder.parameters(), pixels)),
            torch.set_grad_enabled(trained and torch.is_grad_enabled()),
        ):
            return self.encoder(pixels)

    def connect(self, features: Tensor) -> Tensor:
        """Features (N, H, W, D) -> visual tokens (N, L, M)."""
        like = next(self.connector.parameters(), features)
        if like.is_floating_point() and like.itemsize < features.itemsize:
            features = features.to(like.dtype)  # those of an encoder that has nothing to cast
        with fast_products(like):
            return self.connector(features)

    def see(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, height, width) -> visual tokens (N, L, M)."""
        return self.connect(self.encode(pixels))

    def embed(self, ids: Tensor, is_image: Tensor | None = None, visual: Tensor | None = None) -> Tensor:
        """Ids (B, T) -> embeddings (B, T, M), visual tokens (N, L, M) at the positions marked `is_image`."""
        x = self.llm.embed(ids)
        if visual is None or is_image is None:
            return x
        return x.masked_scatter(is_image.unsqueeze(-1), visual.to(x.dtype))

    def read(self, x: Tensor, segments: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """The language model on embeddings (B, T, M) -> (hidden (B, T, M), state)."""
        with fast_products(x):
            return self.llm(x, segments=segments, state=state)

    def forward(
        self,
        ids: Tensor,
        is_image: Tensor | None = None,
        pixels: Tensor | None = None,
        segments: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """-> (hidden (B, T, M), state). `llm.logits` turns hidden states into predictions where wanted.

        Images are pixels (N, 3, height, width) or, already encoded, features (N, H, W, D).
        """
        if pixels is not None:
            features = self.encode(pixels)
        visual = None if features is None else self.connect(features)
        return self.read(self.embed(ids, is_image, visual), segments)
