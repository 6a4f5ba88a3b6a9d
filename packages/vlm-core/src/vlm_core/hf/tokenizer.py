"""The model's tokenizer with the attribute names of transformers' tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_core.interfaces import Tokenizer


class ProcessorTokenizer:
    """The tokenizer of a processor: EOS and BOS ids, and `encode` and `decode` of literal text.

    `pad_token_id` is None: padding is marked by `attention_mask`. Padding with EOS would mask the targets that are EOS.
    """

    pad_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def eos_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def bos_token_id(self) -> int | None:
        return self._tokenizer.bos_id

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS; never a control id."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without control ids."""
        return self._tokenizer.decode(ids)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        """Attributes of the model's tokenizer; `AttributeError` for those that only transformers' tokenizers have."""
        tokenizer = vars(self).get("_tokenizer")
        if tokenizer is not None and hasattr(tokenizer, name):
            return getattr(tokenizer, name)
        raise AttributeError(
            f"this model's tokenizer has no {name}: it is not a transformers tokenizer; to train with Trainer or "
            "SFTTrainer pass data_collator=processor.data_collator(), which makes tokens and labels"
        )
