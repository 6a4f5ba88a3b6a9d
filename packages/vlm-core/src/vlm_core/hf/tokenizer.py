"""The model's tokenizer under the names that transformers' trainers ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_core.interfaces import Tokenizer


class ProcessorTokenizer:
    """The tokenizer of a processor: its ids, and `encode` and `decode` of literal text.

    `pad_token_id` is None: padding is told by `attention_mask`, never by an id, which would hide the end of text.
    """

    pad_token_id = None

    def __init__(self, own: Tokenizer) -> None:
        self.own = own

    @property
    def eos_token_id(self) -> int:
        return self.own.eos_id

    @property
    def bos_token_id(self) -> int | None:
        return self.own.bos_id

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS; never a control id."""
        return self.own.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, control ids left out."""
        return self.own.decode(ids)

    def __len__(self) -> int:
        return len(self.own)

    def __getattr__(self, name: str) -> Any:
        """What the tokenizer has of its own; what only transformers' tokenizers have is named."""
        own = vars(self).get("own")
        if own is not None and hasattr(own, name):
            return getattr(own, name)
        raise AttributeError(
            f"this model's tokenizer has no {name}: it is not one of transformers; to train with Trainer or SFTTrainer "
            "pass data_collator=processor.data_collator(), which writes tokens and labels"
        )
