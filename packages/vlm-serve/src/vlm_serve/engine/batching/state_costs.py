"""The memory of a sequence's state, measured on the model."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vlm_core.model import VLM

SHORT, LONG = 1, 65


class StateCosts(NamedTuple):
    """Bytes of a state: constant for a state-space model, growing with every position for a Transformer."""

    constant: int
    per_position: int = 0

    @classmethod
    @torch.inference_mode()
    def of(cls, model: VLM) -> StateCosts:
        sizes = []
        for length in (SHORT, LONG):
            ids = torch.zeros(1, length, dtype=torch.long, device=next(model.llm.parameters()).device)
            state = model.next_state(model.llm.embed(ids))
            assert state is not None, "a model in inference has a state"
            sizes.append(state.nbytes)
        per_position = -(-max(0, sizes[1] - sizes[0]) // (LONG - SHORT))
        return cls(max(0, sizes[0] - SHORT * per_position), per_position)

    def bytes(self, positions: int) -> int:
        return self.constant + self.per_position * positions
