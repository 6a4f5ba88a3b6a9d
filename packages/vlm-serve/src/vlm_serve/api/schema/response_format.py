"""`response_format` of chat completions and `text.format` of responses."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Tag
from pydantic_core import PydanticCustomError

from vlm_serve.api.schema.strict import Body, tag_of
from vlm_serve.engine.request import Grammar

_OPTIONS = "x-guidance"
SchemaName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


def _without_options(schema: dict[str, Any]) -> dict[str, Any]:
    """llguidance reads options from the schema, which could make an answer that doesn't match it."""
    if _OPTIONS in schema:
        raise PydanticCustomError("options", "{text}", {"text": f"the key {_OPTIONS!r} is not supported"})
    return schema


class NamedSchema(Body):
    """A JSON schema; every answer matches it, `strict` or not. Name and description change nothing."""

    name: SchemaName
    schema_: Annotated[dict[str, Any], Field(alias="schema"), AfterValidator(_without_options)]
    strict: bool | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class FlatSchemaFormat(NamedSchema):
    """As `JsonSchemaFormat`, in the shape of the responses API."""

    type: Literal["json_schema"]


_KINDS = {"text": "@text", "json_object": "@json_object", "json_schema": "@json_schema"}
ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("@text")]
    | Annotated[JsonObjectFormat, Tag("@json_object")]
    | Annotated[JsonSchemaFormat, Tag("@json_schema")],
    tag_of("format", "type", _KINDS),
]
FlatResponseFormat = Annotated[
    Annotated[TextFormat, Tag("@text")]
    | Annotated[JsonObjectFormat, Tag("@json_object")]
    | Annotated[FlatSchemaFormat, Tag("@json_schema")],
    tag_of("format", "type", _KINDS),
]


def grammar_of(
    form: TextFormat | JsonObjectFormat | JsonSchemaFormat | FlatSchemaFormat | None,
) -> Grammar | None:
    """What answers must match; None for free text."""
    if isinstance(form, JsonObjectFormat):
        return Grammar("json_object")
    if isinstance(form, JsonSchemaFormat):
        form = FlatSchemaFormat.model_construct(schema_=form.json_schema.schema_)
    if isinstance(form, FlatSchemaFormat):
        return Grammar("json_schema", json.dumps(form.schema_, ensure_ascii=False))
    return None
