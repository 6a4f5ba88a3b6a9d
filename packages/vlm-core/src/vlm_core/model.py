"""The model: three parts and the splice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlm_core.interfaces import Connector, Encoder, LanguageModel

PARTS = ("encoder", "connector", "llm")


class VLM(nn.Module):
    """encoder → connector → splice into the embedded text → language model (paper, section 3.1)."""

    def __init__(self, encoder: Encoder, connector: Connector, llm: LanguageModel) -> None:
        super().__init__()
        self.encoder, self.connector, self.llm = encoder, connector, llm

    def image_tokens(self, pixels: Tensor) -> int:
        """Positions that one image (3, height, width) takes in the sequence."""
        return self.connector.num_tokens(*self.encoder.grid(*pixels.shape[-2:]))

    def see(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, height, width) -> visual tokens (N, L, M)."""
        trained = any(p.requires_grad for p in self.encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            features = self.encoder(pixels)
        return self.connector(features)

    def embed(self, ids: Tensor, is_image: Tensor | None = None, visual: Tensor | None = None) -> Tensor:
        """Ids (B, T) -> embeddings (B, T, M), visual tokens (N, L, M) at the positions marked `is_image`."""
        x = self.llm.embed(ids)
        if visual is None or is_image is None:
            return x
        return x.masked_scatter(is_image.unsqueeze(-1), visual.to(x.dtype))

    def forward(
        self,
        ids: Tensor,
        is_image: Tensor | None = None,
        pixels: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """-> (hidden (B, T, M), state). `llm.logits` turns hidden states into predictions where wanted."""
        visual = None if pixels is None else self.see(pixels)
        return self.llm(self.embed(ids, is_image, visual), segments=segments)
