"""What a client asks of an engine, and the events of its answer. No torch: these values cross processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from vlm_core.errors import UserError


@dataclass(frozen=True)
class ImageFile:
    """The bytes of an encoded image, not decoded yet; `name` stands for it in messages, such as "image 2"."""

    data: bytes
    name: str


@dataclass(frozen=True)
class VideoFile:
    """The bytes of an encoded video, sampled as the model's spec says."""

    data: bytes
    name: str


Part = str | ImageFile | VideoFile


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation: literal text, images and videos in order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ChatPrompt:
    """Messages that the model's template renders."""

    messages: tuple[ChatMessage, ...]


@dataclass(frozen=True)
class TextPrompt:
    """Text that is continued as it is, without a template; ids of tokens are continued likewise."""

    content: str | tuple[int, ...]


@dataclass(frozen=True)
class Grammar:
    """What every answer must match: a JSON schema as JSON text, or any JSON object."""

    kind: Literal["json_schema", "json_object"]
    schema: str = ""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen, and where an answer ends. The answer is greedy at temperature 0.

    Order: logit bias, penalties, grammar, temperature, top_k, top_p, min_p. Draws depend on `seed` and the number of
    the token alone, never on other requests.
    """

    max_tokens: int | None = None
    """None: as many as the server's limit of positions allows."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    """Alternatives reported beside each token, 0 to 20; None reports no log probabilities."""
    grammar: Grammar | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to one prompt; `n` answers are n requests with seeds of their own.

    States that a request leaves in the cache are found by requests of the same `owner` alone.
    """

    id: str
    prompt: ChatPrompt | TextPrompt
    sampling: SamplingParams
    owner: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """A token, the bytes of its text, and its log probability under the distribution that is sampled from.

    A control token has no text, and its spelling as `token`.
    """

    token: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Started:
    """The prompt was read: its number of positions, and how many of them came from the cache."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Piece:
    """The next part of an answer's text; it may be empty while a character or a stop string is incomplete."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The answer has ended: by EOS or a stop string, or by a limit of tokens. Always the last event."""

    reason: Literal["stop", "length"]
    completion_tokens: int


Subject = Literal["prompt", "logit_bias", "grammar"]
"""What of a request may be wrong, besides its images, which messages name."""


@dataclass(frozen=True)
class Failed:
    """The request has no (further) answer. Always the last event.

    `refused`: the request itself is wrong (status 400): its `subject`, if it is one of these; `code` is a word for
    programs. `overloaded`: no room now (503). `crashed`: the worker ended (500). The message is safe to show.
    """

    kind: Literal["refused", "overloaded", "crashed"]
    message: str
    subject: Subject | None = None
    code: str | None = None


class Refused(UserError):
    """A request that can't be answered, with the facts of `Failed`."""

    def __init__(self, message: str, subject: Subject | None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.subject: Subject | None = subject
        self.code = code


def refusal(error: UserError) -> Failed:
    """The last event of a request that can't be answered."""
    text = " ".join(error.lines)
    if isinstance(error, Refused):
        return Failed("refused", text, error.subject, error.code)
    return Failed("refused", text)


Event = Started | Piece | Finished | Failed


@dataclass(frozen=True)
class ModelFacts:
    """What the interface must know of the served model."""

    name: str
    digest: str
    """Digest of the weights and the template; another one after a reload of changed files."""
    max_positions: int
    """Positions that a prompt and its answer may have together, a limit of the server."""
    images: bool
    videos: bool
    system: bool
    """Whether the template has a place for a system message."""


class Engine(Protocol):
    """Answers requests; used by one event loop. `LocalEngine` is a thread of this process, `Workers` are processes."""

    def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """The events of an answer. Closing the iterator early cancels the request and frees its slot at once."""
        ...

    def facts(self) -> ModelFacts: ...

    def stats(self) -> Mapping[str, float]:
        """Counters and gauges by name: queue, slots, cache hits and others, for `/metrics`."""
        ...

    def failure(self) -> UserError | None:
        """Why every request fails from now on; None while requests are answered, or may be again."""
        ...

    async def close(self, grace: float = 30.0) -> None:
        """Stop taking requests, finish those that were begun within `grace` seconds, fail the others."""
        ...
