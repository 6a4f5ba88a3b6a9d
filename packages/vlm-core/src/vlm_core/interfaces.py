"""The contracts of encoder, connector and language model. Components subclass these; `vlm_core.testing` tests them.

Shapes: B batch, T sequence positions, N images, H W patch grid, L visual tokens per image, D encoder width, M model
width, V vocabulary.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Generic, Protocol, Self, TypeVar

from PIL import Image
from torch import Generator, Tensor, nn

from vlm_core.decode_slots import DecodeSlots
from vlm_core.errors import UserError
from vlm_core.numerics.frozen_modules import Part, running_statistics
from vlm_core.preprocessing import Preprocessing

PADDING = -1
"""Segment number of padding: no other position depends on these positions, and they depend on none."""


@dataclass(frozen=True)
class ChatTemplate:
    """The Jinja source of a tokenizer's chat template, and its variables that name tokens, such as `eos_token`."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)


class Tokenizer(ABC):
    """Text to ids and back. Text is always literal: `encode` never returns a control token.

    `control_tokens` maps the spelling of every control token, including EOS and BOS, to its id.
    """

    eos_id: int
    bos_id: int | None = None
    control_tokens: Mapping[str, int] = MappingProxyType({})
    chat_template: ChatTemplate | None = None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never a control id, even if the text spells one."""

    def split(self, text: str) -> list[str | int]:
        """A template author's text as pieces of text and ids of the control tokens it spells. Not for user text."""
        if not self.control_tokens:
            return [text]
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return [self.control_tokens[part] if i % 2 else part for i, part in enumerate(parts) if part]

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without control ids."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of ids, including added tokens."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files from which `build(assets=folder)` loads this tokenizer."""


class Encoder(Part, ABC):
    """Pixels to a grid of patch features. Normalisation with mean and std is part of `forward`.

    `dim` is D, `image_size` the (height, width) that `transform` returns. Norms with running statistics stay in
    evaluation mode, also while the encoder is trained.
    """

    dim: int
    image_size: tuple[int, int]

    @abstractmethod
    def transform(self, image: Image.Image) -> Tensor:
        """RGB image -> float32 tensor (3, height, width) in [0, 1], resized for this encoder."""

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch grid (H, W) for pixels of this size."""

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, height, width) in [0, 1] -> (N, H, W, D), without CLS and register tokens."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if running_statistics(module):
                module.eval()
        return self

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing that belongs to the weights; None if the encoder doesn't report it."""
        return None

    def save_assets(self, folder: Path) -> None:
        """Write the small files, besides weights, that `build(assets=folder)` needs. By default there are none."""


class Connector(Part, ABC):
    """A patch grid to image embeddings of the language model's width."""

    @abstractmethod
    def num_tokens(self, h: int, w: int) -> int:
        """Number of visual tokens L for an (h, w) grid, equal to that of `forward`.

        Raises `UserError`, as `forward` does, for a grid that is not supported: patches are never dropped.
        """

    def token_grid(self, h: int, w: int) -> tuple[int, int] | None:
        """Rows and columns of the L tokens for an (h, w) grid, if they are in the order of a 2D map, row by row.

        None, the default, says that they are not; tiles can then not be arranged as rows of one image.
        """
        return None

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """(N, H, W, D) -> (N, L, M)."""


class State(Protocol):
    """A language model's state after some positions: of constant size for an SSM, a KV cache for a Transformer.

    A state is a value: `forward` never changes it in place.
    """

    def clone(self) -> Self:
        """An independent copy."""
        ...

    def expand(self, n: int) -> Self:
        """A state for B·n sequences: each sequence repeated n times, copies adjacent."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        ...

    def to_tensors(self) -> dict[str, Tensor]:
        """All that the state consists of, by name, for `LanguageModel.state_from_tensors`; they are not modified.

        Raises `UserError` if the state can't be represented by tensors.
        """
        ...


S = TypeVar("S", bound=State)


class Sampler(Protocol):
    """The choice of the next ids. Samplers that choose alike are equal and have the same hash."""

    def __call__(self, logits: Tensor, generator: Generator) -> Tensor:
        """Logits (B, V) -> ids (B); -1 for a sequence whose logits are not finite. It may change the logits."""
        ...

    def __hash__(self) -> int: ...


class GraphDecoder(Protocol):
    """Processes an id of each sequence and chooses the next, a CUDA graph a token; its state changes in place.

    It may run one token ahead of its reader: the state and the logits of the step before are kept.
    """

    def start(self, state: State, ids: Tensor, generator: Generator) -> None:
        """Continue from a state with ids (B), which it does not include. Later draws are those of `generator`."""

    def step(self) -> Callable[[], list[int]]:
        """Process the last ids and choose the next, without waiting for the GPU. -> what waits for and returns them.

        It must be called before the step after the next.
        """
        ...

    def logits(self, *, ahead: bool) -> Tensor:
        """A copy of the logits (B, V) that the last ids were chosen from; of the step before it if `ahead`."""
        ...

    def state(self, *, ahead: bool) -> State:
        """A copy of the state after the last step; after the step before it if `ahead`."""
        ...

    def close(self) -> None:
        """Another answer may use the decoder from now on."""


class LanguageModel(Part, ABC, Generic[S]):
    """A causal language model on embeddings, with states of type S. `dim` is M, `vocab_size` V."""

    dim: int
    vocab_size: int
    supports_packing: bool = True
    """Whether `segments` may number several samples in one sequence. Padding is always supported."""
    pads_between: bool = True
    """Whether padding is supported between the chunks of a sequence, not only before the first."""
    joins_states: bool = False
    """Whether the model has `join_states`."""
    max_positions: int | None = None
    """Positions of a sequence that the weights were made for; None: any number, or not known."""
    prefill_chunk: int | None = None
    """Positions that a long input is processed in at once, unless the caller says otherwise; None: all."""

    def __init__(self, load_tokenizer: Callable[[], Tokenizer]) -> None:
        super().__init__()
        self._load_tokenizer = load_tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded at the first use: a model on the meta device needs no files.

        Raises `UserError` if it has ids without an embedding.
        """
        tokenizer = self._load_tokenizer()
        if len(tokenizer) > self.vocab_size:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} ids but the model only {self.vocab_size} embeddings"
                "; use the tokenizer that belongs to the model"
            )
        return tokenizer

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Ids (B, T) -> embeddings (B, T, M)."""

    @abstractmethod
    def forward(
        self, x: Tensor, *, segments: Tensor | None = None, state: S | None = None
    ) -> tuple[Tensor, S | None]:
        """Embeddings (B, T, M) -> (hidden states (B, T, M), state after the last position or None).

        `segments` (B, T) numbers the sample of each position, or is `PADDING`. Samples don't influence each other, and
        padding influences nothing. `state` is that of an earlier call: a sequence in chunks gives the same result as
        in one call. It is never changed in place.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., M) -> logits (..., V). Call it only at positions that need a prediction."""

    def output_projection(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight (V, M) and bias (V) if `logits` is exactly this linear map; None if it is more than that."""
        return None

    def prefill(
        self, x: Tensor, *, segments: Tensor | None = None, state: S | None = None
    ) -> tuple[Tensor, S | None]:
        """As `forward`, but -> (logits (B, V) of the last position, state). A subclass may have a faster way."""
        hidden, state = self(x, segments=segments, state=state)
        return self.logits(hidden[:, -1]), state

    def next_state(self, x: Tensor, *, state: S | None = None) -> S | None:
        """The state after embeddings (B, T, M), as that of `forward`; nothing is predicted from them."""
        return self(x, state=state)[1]

    def cuda_graph_decoder(self, state: S, sampler: Sampler) -> GraphDecoder | None:
        """A faster decoder for states like this one, with the same results; None if there is none. Call `start`."""
        return None

    def decode_slots(self, count: int) -> DecodeSlots | None:
        """Memory for `count` sequences that are decoded together; None if the model's states can't share one."""
        return None

    def state_from_tensors(self, tensors: Mapping[str, Tensor]) -> S:
        """The state that `State.to_tensors` wrote, bit by bit; floats are converted to the dtype of the model's states.

        The tensors, on any device, may come from a damaged file. Large ones may be on the meta device, to be checked
        before they are read. Raises `UserError` for names, shapes or types other than those of this model's states, and
        if the model's states can't be made from tensors: the default.
        """
        raise UserError(f"{type(self).__name__}: its states can't be saved and loaded")

    def join_states(self, states: Sequence[S]) -> S:
        """One state of the sequences of all states, in order; their lengths may differ. Not every model can."""
        raise NotImplementedError(f"{type(self).__name__} can't join states")

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer and other small files for `build(assets=folder)`."""
        self.tokenizer.save(folder)


def parameter_count(module: nn.Module) -> int:
    """Number of parameters; shared ones count once."""
    return sum(p.numel() for p in module.parameters())
