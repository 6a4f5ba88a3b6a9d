"""Draws of all answers of a group at once, on the GPU: those of `RowSampler` at a temperature, and nothing else.

Shapes: B rows, V ids of the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """What decides a token besides its logits: a temperature above 0, and a number in [0, 1)."""

    temperature: float
    uniform: float


def drawn(logits: Tensor, temperatures: Tensor, uniforms: Tensor) -> Tensor:
    """Logits (B, V), temperatures (B) and numbers in [0, 1) (B) -> ids (B), as `RowSampler.choose`.

    Sums over a row don't depend on the other rows, but on their number: let it be the same always.
    """
    logits = logits.float()
    lowest = torch.finfo(torch.float32).tiny
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperatures.float().clamp(min=lowest).unsqueeze(-1)
    cumulative = scaled.softmax(-1).double().cumsum(-1)
    targets = uniforms.unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1).clamp(max=logits.shape[1] - 1)


class GroupDraws:
    """The memory of the draws of `rows` answers; rows without a draw keep the most likely id."""

    def __init__(self, logits: Tensor, rows: int, vocabulary: int) -> None:
        """`logits`: some of the group, for dtype and device."""
        device = logits.device
        self._logits = logits.new_zeros(rows, vocabulary)
        self._best = torch.zeros(rows, dtype=torch.long, device=device)
        self._params = torch.zeros(2, rows, dtype=torch.float64, device=device)
        self._staged = torch.zeros(2, 2, rows, dtype=torch.float64, device="cpu", pin_memory=logits.is_cuda)
        self.ids = torch.zeros_like(self._best)

    def set(self, logits: Tensor, best: Tensor, draws: Sequence[Draw | None], turn: int) -> None:
        """Logits (n, …) of a step, the most likely ids (n), and a draw for some; `turn` is 0 and 1 in turn."""
        count = len(best)
        self._logits[:count].copy_(logits[:, : self._logits.shape[1]])
        self._best[:count].copy_(best)
        staged = self._staged[turn].zero_()
        staged[:, : len(draws)] = torch.tensor([draw or (0.0, 0.0) for draw in draws], dtype=torch.float64).T
        self._params.copy_(staged, non_blocking=True)

    def run(self) -> tuple[Tensor]:
        """-> ids (rows), in memory of their own; -1 where logits are not finite."""
        temperatures, uniforms = self._params
        draws = (temperatures > 0) & (self._best >= 0)
        self.ids.copy_(torch.where(draws, drawn(self._logits, temperatures, uniforms), self._best))
        return (self.ids,)
