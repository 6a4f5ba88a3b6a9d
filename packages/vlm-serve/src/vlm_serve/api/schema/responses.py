"""The body of `/v1/responses`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag, model_validator

from vlm_serve.api.schema.chat import MAX_MESSAGES, MAX_PARTS
from vlm_serve.api.schema.response_format import FlatResponseFormat, TextFormat, grammar_of
from vlm_serve.api.schema.sampling import Alternatives, Label, SamplingBody, TokenCount
from vlm_serve.api.schema.strict import Body, at, at_most, only, string_or_list, tag_of
from vlm_serve.engine.request import SamplingParams

LOGPROBS = "message.output_text.logprobs"
_SEVERAL = Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)


class InputText(Body):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Annotated[Any, only()] = None


class InputImage(Body):
    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    detail: Annotated[Any, only("auto")] = None
    file_id: Annotated[Any, only()] = None
    prompt_cache_breakpoint: Annotated[Any, only()] = None


class OutputText(Body):
    """A part of an earlier answer, as a response had it; its log probabilities are not read."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[Any, only([])] = None
    logprobs: list[Any] | None = None


InputPart = Annotated[
    Annotated[InputText, Tag("@text")] | Annotated[InputImage, Tag("@image")],
    tag_of("type", "type", {"input_text": "@text", "input_image": "@image"}),
]
InputContent = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[InputPart], _SEVERAL, Tag("@list")], string_or_list()
]
SystemContent = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[InputText], _SEVERAL, Tag("@list")], string_or_list()
]
OutputContent = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[OutputText], _SEVERAL, Tag("@list")], string_or_list()
]


class _Item(Body):
    """What every message of the input may have besides its content: nothing that changes an answer."""

    type: Literal["message"] | None = None
    id: Label | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    phase: Annotated[Any, only("final_answer")] = None


class SystemItem(_Item):
    role: Literal["system", "developer"]
    content: SystemContent


class UserItem(_Item):
    role: Literal["user"]
    content: InputContent


class AssistantItem(_Item):
    role: Literal["assistant"]
    content: OutputContent


def _is_message(value: Any) -> Any:
    """The only kind of item that is read is told by `type`, and not by the lack of a role."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in (None, "message"):
        raise at("type", "this kind of item is not supported; expected 'message'")
    return value


_ROLES = {"system": "@system", "developer": "@system", "user": "@user", "assistant": "@assistant"}
InputItem = Annotated[
    Annotated[SystemItem, Tag("@system")]
    | Annotated[UserItem, Tag("@user")]
    | Annotated[AssistantItem, Tag("@assistant")],
    tag_of("role", "role", _ROLES),
    BeforeValidator(_is_message),
]
Input = Annotated[
    Annotated[str, Tag("@string")]
    | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("@list")],
    string_or_list(),
]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(at_most(16)),
]


class TextConfig(Body):
    format: FlatResponseFormat | None = None
    verbosity: Annotated[Any, only("medium")] = None


class ResponseStreamOptions(Body):
    include_obfuscation: Annotated[Any, only(False)] = None


class ResponseBody(SamplingBody):
    """All fields of a response; the last ones are refused unless their value changes nothing."""

    model: str
    input: Input
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    previous_response_id: Label | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: TextConfig | None = None
    top_logprobs: Alternatives | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    metadata: Metadata | None = None

    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    parallel_tool_calls: bool | None = None

    access_programs: Annotated[Any, only()] = None
    background: Annotated[Any, only(False)] = None
    background_options: Annotated[Any, only()] = None
    context_management: Annotated[Any, only([])] = None
    conversation: Annotated[Any, only()] = None
    image: Annotated[Any, only()] = None
    max_tool_calls: Annotated[Any, only()] = None
    moderation: Annotated[Any, only()] = None
    prompt: Annotated[Any, only()] = None
    prompt_cache_options: Annotated[Any, only()] = None
    prompt_cache_retention: Annotated[Any, only("in_memory")] = None
    reasoning: Annotated[Any, only({}, {"effort": None}, {"effort": "none"})] = None
    service_tier: Annotated[Any, only("auto", "default")] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    tools: Annotated[Any, only([])] = None
    truncation: Annotated[Any, only("disabled")] = None

    @model_validator(mode="after")
    def _together(self) -> ResponseBody:
        if self.top_logprobs and not self.include:
            raise at("top_logprobs", f"needs include to be [{LOGPROBS!r}]")
        if self.stream_options is not None and not self.stream:
            raise at("stream_options", "needs stream to be true")
        return self

    @property
    def keep(self) -> bool:
        """Whether the response is stored: the default, as in OpenAI's API."""
        return self.store is not False

    @property
    def format(self) -> Any:
        return (self.text and self.text.format) or TextFormat(type="text")

    def params(self) -> SamplingParams:
        return replace(
            self.sampling(),
            max_tokens=self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if self.include else None,
            grammar=grammar_of(self.format),
        )
