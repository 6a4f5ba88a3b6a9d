"""The body of `/v1/chat/completions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from vlm_serve.api.schema.response_format import ResponseFormat, grammar_of
from vlm_serve.api.schema.sampling import Alternatives, Label, PenaltyBody, StreamOptions, TokenCount
from vlm_serve.api.schema.strict import Body, at, only, string_or_list, tag_of
from vlm_serve.engine.request import SamplingParams

MAX_MESSAGES = 10_000
MAX_PARTS = 10_000


class TextPart(Body):
    type: Literal["text"]
    text: str


class MediaUrl(Body):
    url: Annotated[str, Field(min_length=1)]
    detail: Annotated[Any, only("auto")] = None


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: MediaUrl


class VideoUrl(Body):
    url: Annotated[str, Field(min_length=1)]


class VideoPart(Body):
    """A video, as vLLM's servers take it; no part of OpenAI's API."""

    type: Literal["video_url"]
    video_url: VideoUrl


UserPart = Annotated[
    Annotated[TextPart, Tag("@text")]
    | Annotated[ImagePart, Tag("@image_url")]
    | Annotated[VideoPart, Tag("@video_url")],
    tag_of("type", "type", {"text": "@text", "image_url": "@image_url", "video_url": "@video_url"}),
]
_SEVERAL = Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)
TextContent = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[TextPart], _SEVERAL, Tag("@list")],
    string_or_list(),
]
UserContent = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[UserPart], _SEVERAL, Tag("@list")],
    string_or_list(),
]
_NOT_NAMED = only()


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: TextContent
    name: Annotated[Any, _NOT_NAMED] = None


class UserMessage(Body):
    role: Literal["user"]
    content: UserContent
    name: Annotated[Any, _NOT_NAMED] = None


class AssistantMessage(Body):
    """An earlier answer; what the client's library adds to it when a conversation goes on has no content."""

    role: Literal["assistant"]
    content: TextContent
    name: Annotated[Any, _NOT_NAMED] = None
    refusal: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only()] = None
    tool_calls: Annotated[Any, only([])] = None
    annotations: Annotated[Any, only([])] = None


_ROLES = {"system": "@system", "developer": "@system", "user": "@user", "assistant": "@assistant"}
ChatItem = Annotated[
    Annotated[SystemMessage, Tag("@system")]
    | Annotated[UserMessage, Tag("@user")]
    | Annotated[AssistantMessage, Tag("@assistant")],
    tag_of("role", "role", _ROLES),
]


class ChatBody(PenaltyBody):
    """All fields of a chat completion; the last ones are refused unless their value changes nothing."""

    model: str
    messages: Annotated[list[ChatItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    response_format: ResponseFormat | None = None

    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    parallel_tool_calls: bool | None = None

    audio: Annotated[Any, only()] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    functions: Annotated[Any, only([])] = None
    metadata: Annotated[Any, only({})] = None
    modalities: Annotated[Any, only(["text"])] = None
    moderation: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only()] = None
    prompt_cache_retention: Annotated[Any, only("in_memory")] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    store: Annotated[Any, only(False)] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    tools: Annotated[Any, only([])] = None
    verbosity: Annotated[Any, only("medium")] = None
    web_search_options: Annotated[Any, only()] = None

    @model_validator(mode="after")
    def _together(self) -> ChatBody:
        if None not in (both := (self.max_tokens, self.max_completion_tokens)) and len({*both}) > 1:
            raise at("max_tokens", "differs from max_completion_tokens, which stands for the same")
        if self.top_logprobs is not None and not self.logprobs:
            raise at("top_logprobs", "needs logprobs to be true")
        if self.stream_options is not None and not self.stream:
            raise at("stream_options", "needs stream to be true")
        return self

    def params(self) -> SamplingParams:
        return replace(
            self.sampling(),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=grammar_of(self.response_format),
        )
