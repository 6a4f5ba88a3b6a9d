"""The three contracts. Third parties subclass these; `vlm_core.testing` holds the tests that go with them.

Shape alphabet: B batch, T text/sequence positions, N images, H W patch grid, L visual tokens an image,
D encoder width, M model width, V vocabulary.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

from PIL import Image
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.numerics.frozen_modules import Part, running_statistics
from vlm_core.preprocessing import Preprocessing

PADDING = -1
"""Segment number of padding positions: they are read by nothing and read nothing."""


@dataclass(frozen=True)
class ChatTemplate:
    """The Jinja text of a tokenizer's chat template, and the tokens that it may call by name, such as `eos_token`."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)


class Tokenizer(ABC):
    """Text to ids and back. Text is always literal: control tokens enter only by id.

    `control_tokens` are ids by the text that a template's author calls them by, EOS and BOS among them.
    """

    eos_id: int
    bos_id: int | None = None
    control_tokens: Mapping[str, int] = MappingProxyType({})
    chat_template: ChatTemplate | None = None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never yields a control id, whatever the text spells."""

    def split(self, text: str) -> list[str | int]:
        """What an author wrote with control tokens spelled out, as text and their ids. Never for what a user types."""
        if not self.control_tokens:
            return [text]
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return [self.control_tokens[part] if i % 2 else part for i, part in enumerate(parts) if part]

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, control ids left out."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of ids, added tokens included."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what is needed to load this tokenizer again."""


class Encoder(Part, ABC):
    """Pixels to a grid of patch features; normalisation constants live inside.

    Running statistics of an encoder are never trained: norms that keep them stay in evaluation mode.
    """

    dim: int
    image_size: tuple[int, int]

    @abstractmethod
    def transform(self, image: Image.Image) -> Tensor:
        """RGB image -> float tensor (3, height, width) in [0, 1], sized as this tower wants it."""

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch grid (H, W) for pixels of this size."""

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, height, width) in [0, 1] -> (N, H, W, D); CLS and register tokens dropped."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if running_statistics(module):
                module.eval()
        return self

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The facts of its weights that `transform` and `forward` follow; None where an encoder does not tell."""
        return None

    def save_assets(self, folder: Path) -> None:
        """Write the small files besides weights that `build(assets=folder)` needs. None by default."""


class Connector(Part, ABC):
    """A patch grid to visual tokens of the language model's width."""

    @abstractmethod
    def num_tokens(self, h: int, w: int) -> int:
        """Visual tokens L for an (h, w) grid; what `forward` returns must agree.

        A grid that the connector can't take raises `UserError` here and in `forward`: patches are never dropped.
        """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(N, H, W, D) -> (N, L, M)."""


class State(Protocol):
    """The state of a language model after some positions: of constant size for an SSM, a KV cache for a Transformer."""

    def clone(self) -> Self:
        """An independent copy."""
        ...

    def expand(self, n: int) -> Self:
        """Each sequence of the batch repeated n times, its copies adjacent."""
        ...


class GraphDecoder(Protocol):
    """One token a call, with a state of its own that changes in place."""

    def __call__(self, ids: Tensor) -> Tensor:
        """Ids (B) -> logits (B, V), which the next call overwrites."""
        ...

    def state(self) -> State:
        """A copy of the state after the last token."""
        ...


class LanguageModel(Part, ABC):
    """A causal language model on embeddings."""

    dim: int
    vocab_size: int
    supports_packing: bool = True
    """Whether `segments` may hold several samples in one row (padding is always supported)."""
    pads_between: bool = True
    """Whether padding may stand between pieces of a sequence, and not only in front of the first."""

    def __init__(self, load_tokenizer: Callable[[], Tokenizer]) -> None:
        super().__init__()
        self._load_tokenizer = load_tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded when first used, so that arithmetic on the meta device needs no files.

        Raises `UserError` if it has ids without an embedding.
        """
        tokenizer = self._load_tokenizer()
        if len(tokenizer) > self.vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} ids but the model only {self.vocab_size} embeddings"
                "; give the tokenizer that belongs to the model"
            )
        return tokenizer

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, M)."""

    @abstractmethod
    def forward(
        self, x: Tensor, *, segments: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, State | None]:
        """Embeddings (B, T, M) -> (hidden (B, T, M), state after the last position).

        `segments` (B, T) numbers the sample that each position belongs to: nothing passes from one to the
        next, and `PADDING` positions take part in nothing. `state` continues an earlier call: feeding in
        pieces equals feeding whole. It is never changed in place.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(..., M) -> (..., V); call it only where a prediction is wanted."""

    def output_projection(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight (V, M) and bias where `logits` is exactly their product with hidden states; None where it is more."""
        return None

    def cuda_graph_decoder(self, state: Any) -> GraphDecoder | None:
        """A faster way to take tokens one by one from here on, where there is one; it gives the same numbers."""
        return None

    def save_assets(self, folder: Path) -> None:
        """Write tokenizer and other small files for `build(assets=folder)`."""
        self.tokenizer.save(folder)


def parameter_count(module: nn.Module) -> int:
    """Parameters of a module, shared ones counted once."""
    return sum(p.numel() for p in module.parameters())
