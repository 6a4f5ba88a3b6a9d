"""The body of `/v1/completions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from vlm_serve.api.schema.sampling import MAX_TOKENS, Alternatives, PenaltyBody, StreamOptions, TokenCount
from vlm_serve.api.schema.strict import at, discriminator, only
from vlm_serve.engine.request import SamplingParams, TextPrompt

MAX_PROMPTS = 128
DEFAULT_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions."""

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "@string"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    return {int: "@ids", list: "@lists"}.get(type(first), "@strings")


def _prompts() -> Discriminator:
    return discriminator(_prompt_kind, "", "a string, a list of strings, or ids of tokens")


Prompt = Annotated[
    Annotated[str, Tag("@string")]
    | Annotated[TokenIds, Tag("@ids")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("@strings")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("@lists")],
    _prompts(),
]


class CompletionBody(PenaltyBody):
    """All fields of a completion; the last ones are refused unless their value changes nothing."""

    model: str
    prompt: Prompt
    max_tokens: TokenCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Alternatives | None = None

    best_of: int | None = None
    echo: Annotated[Any, only(False)] = None
    suffix: Annotated[Any, only("")] = None

    @model_validator(mode="after")
    def _together(self) -> CompletionBody:
        if self.best_of not in (None, self.n or 1):
            raise at("best_of", "not supported; expected null or the value of n")
        if self.stream_options is not None and not self.stream:
            raise at("stream_options", "needs stream to be true")
        return self

    def prompts(self) -> list[TextPrompt]:
        if isinstance(self.prompt, str):
            return [TextPrompt(self.prompt)]
        if isinstance(self.prompt[0], int):
            return [TextPrompt(tuple(self.prompt))]  # pyright: ignore[reportArgumentType]
        return [TextPrompt(p if isinstance(p, str) else tuple(p)) for p in self.prompt]  # pyright: ignore[reportArgumentType]

    def params(self) -> SamplingParams:
        return replace(self.sampling(), max_tokens=self.max_tokens or DEFAULT_TOKENS, logprobs=self.logprobs)
