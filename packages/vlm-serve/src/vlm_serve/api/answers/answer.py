"""What has come of an answer so far, and the tokens that a request has cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vlm_serve.engine.request import Event, Finished, Piece, Started, TokenLogprob


@dataclass
class Answer:
    """One answer; `finish_reason` is None until its end."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, event: Event) -> None:
        """Take an event that is no failure."""
        if isinstance(event, Started):
            self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens
        elif isinstance(event, Piece):
            self.pieces.append(event.text)
            self.logprobs += event.logprobs
            self.completion_tokens += event.tokens
        elif isinstance(event, Finished):
            self.finish_reason, self.completion_tokens = event.reason, event.completion_tokens


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: a prompt counts once, however many answers it has."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, answers: Sequence[Answer], per_prompt: int) -> Usage:
        """The usage of answers of which every `per_prompt` adjacent ones have one prompt."""
        firsts = answers[::per_prompt]
        return cls(
            sum(answer.prompt_tokens for answer in firsts),
            sum(answer.cached_tokens for answer in firsts),
            sum(answer.completion_tokens for answer in answers),
        )

    def completion_usage(self) -> dict[str, Any]:
        """As chat completions and completions report it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def response_usage(self) -> dict[str, Any]:
        """As responses report it; nothing here reasons, and states are written to the cache without a charge."""
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
