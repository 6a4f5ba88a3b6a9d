"""What all bodies share: no unknown field, no conversion, and options without effect that are said to have none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from vlm_serve.api.schema.places import fault, one_of

MAX_FIELDS = 100
"""Of an object; the largest one has half as many that are known."""


class Body(BaseModel):
    """A JSON object of a request: a field that it doesn't list is an error, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _not_too_many_fields(cls, value: Any) -> Any:
        return at_most(MAX_FIELDS)(value)


def at_most(count: int) -> Callable[[Any], Any]:
    """Refuses an object of more fields before they are looked at: each fault of a field costs time and memory."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            text = f"expected an object of at most {count} fields, got {len(value)}"
            raise PydanticCustomError("too_many_fields", "{text}", {"text": text})
        return value

    return check


M = TypeVar("M", bound=BaseModel)


def parsed(model: type[M], body: Mapping[str, Any]) -> M:
    """The body as a model; raises `RequestError` that names the first wrong place."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    raise fault(first, body)


def only(*values: Any) -> BeforeValidator:
    """A field that is read, but may have null or these values alone: others would need what this server has not."""

    def check(value: Any) -> Any:
        if value is None or any(type(value) is type(known) and value == known for known in values):
            return value
        text = f"not supported; expected {' or '.join(['null', *map(json.dumps, values)])}"
        raise PydanticCustomError("unsupported", "{text}", {"text": text})

    return BeforeValidator(check)


def at(field: str, text: str) -> PydanticCustomError:
    """A fault of fields that don't go together, told at `field`."""
    return PydanticCustomError("together", "{text}", {"field": field, "text": text})


def tag_of(name: str, key: str, allowed: Mapping[str, str]) -> Discriminator:
    """Chooses a member of a union by the string at `key` of an object, as `allowed` says."""

    def tag(value: Any) -> str | None:
        kind = value.get(key) if isinstance(value, dict) else None
        return allowed.get(kind) if isinstance(kind, str) else None

    return discriminator(tag, key, f"{name}; expected {one_of(allowed)}")


def string_or_list() -> Discriminator:
    """Chooses between the members tagged `@string` and `@list` of a union."""

    def tag(value: Any) -> str | None:
        return "@string" if isinstance(value, str) else "@list" if isinstance(value, list) else None

    return discriminator(tag, "", "a string or a list")


def discriminator(tag: Callable[[Any], str | None], key: str, expected: str) -> Discriminator:
    """Chooses by `tag`, None of which is an error: at `key` of an object or, without a key, of the value itself.

    Key and text are told in the message: a context would be a dict, which members of unions can't have.
    """
    return Discriminator(tag, custom_error_type="kind", custom_error_message=f"{key}\n{expected}")
