"""Whether what a server sent is what the openai client's own types describe."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel


def _models(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _models(getattr(value, name))
    elif isinstance(value, list):
        for each in value:
            yield from _models(each)


def check_shape(value: BaseModel) -> None:
    """The client builds its types without a check: here all fields must be there, of their type, and no others."""
    type(value).model_validate(value.to_dict())
    extras = {type(model).__name__: model.model_extra for model in _models(value) if model.model_extra}
    assert not extras
