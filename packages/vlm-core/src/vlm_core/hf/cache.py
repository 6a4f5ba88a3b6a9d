"""The state of the language model, as transformers' generation carries a cache from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from vlm_core.errors import UserError


@dataclass
class StateCache:
    """A state after `length` positions of every row, padding counted in. It is never changed in place."""

    state: Any
    length: int

    is_compileable: ClassVar[bool] = False
    is_linear: ClassVar[tuple[bool, ...]] = (True,)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        raise UserError("beam search would have to exchange the states of rows; use num_beams=1")
