"""Mamba-1 language model on the shared mixer; parameter names of the `state-spaces` checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_core.interfaces import PADDING, LanguageModel, Tokenizer
from vlm_core.ssm import MambaMixer, SSMState


class MambaState(tuple[SSMState, ...]):
    """One constant-size state a layer."""

    def clone(self) -> MambaState:
        return MambaState(SSMState(s.conv.clone(), s.ssm.clone()) for s in self)

    def expand(self, n: int) -> MambaState:
        return MambaState(
            SSMState(s.conv.repeat_interleave(n, 0), s.ssm.repeat_interleave(n, 0)) for s in self
        )


class Block(nn.Module):
    """x + mixer(norm(x)); the residual x stays fp32 whatever the weights are."""

    def __init__(self, mixer: MambaMixer, dim: int) -> None:
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(dim, eps=1e-5), mixer

    def forward(
        self, residual: Tensor, segments: Tensor | None, state: SSMState | None
    ) -> tuple[Tensor, SSMState]:
        out, after = self.mixer(self.norm(residual.to(self.norm.weight.dtype)), segments, state)
        return residual + out, after


class Backbone(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, embedding: nn.Embedding, layers: Sequence[Block], dim: int) -> None:
        super().__init__()
        self.embedding, self.layers = embedding, nn.ModuleList(layers)
        self.norm_f = nn.RMSNorm(dim, eps=1e-5)


def _wide(index: Tensor, x: Tensor) -> Tensor:
    """(B, T) positions as an index into (B, T, M)."""
    return index.unsqueeze(-1).expand_as(x)


class MambaLM(LanguageModel):
    """Embedding tied to the output; RMSNorm before each mixer; fp32 residual."""

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        vocab_size: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        *,
        init_std: float = 0.02,
        load_tokenizer: Callable[[], Tokenizer],
    ) -> None:
        super().__init__(load_tokenizer)
        self.dim, self.vocab_size = d_model, vocab_size
        self._shape = {"d_model": d_model, "n_layer": n_layer, "vocab_size": vocab_size, "d_state": d_state,
                       "d_conv": d_conv, "expand": expand, "dt_rank": dt_rank}  # fmt: skip
        layers = [
            Block(MambaMixer(d_model, d_state, d_conv, expand, dt_rank), d_model) for _ in range(n_layer)
        ]
        self.backbone = Backbone(nn.Embedding(vocab_size, d_model), layers, d_model)
        self._init(n_layer, init_std)

    @torch.no_grad()
    def _init(self, n_layer: int, std: float) -> None:
        """As the released models: small embeddings, output projections scaled by depth."""
        nn.init.normal_(self.backbone.embedding.weight, std=std)
        for block in self.backbone.layers:
            block.mixer.out_proj.weight /= math.sqrt(n_layer)  # pyright: ignore

    def embed(self, ids: Tensor) -> Tensor:
        return self.backbone.embedding(ids)

    def forward(
        self, x: Tensor, *, segments: Tensor | None = None, state: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        residual, states, order = x.float(), [], None
        if segments is not None and bool((segments == PADDING).any()):
            order = (segments != PADDING).int().argsort(dim=1, stable=True)  # padding to the front
            residual, segments = residual.gather(1, _wide(order, residual)), segments.gather(1, order)
        for i, block in enumerate(self.backbone.layers):
            residual, layer_state = block(residual, segments, state[i] if state else None)
            states.append(layer_state)
        if order is not None:
            residual = residual.gather(1, _wide(order.argsort(dim=1), residual))
        norm = self.backbone.norm_f
        return norm(residual.to(norm.weight.dtype)), MambaState(states)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.backbone.embedding.weight)

    def save_assets(self, folder: Path) -> None:
        super().save_assets(folder)
        (folder / "mamba.json").write_text(json.dumps(self._shape, indent=1) + "\n")
