"""Validates plain data as typed configs; every fault has file, line and dotted key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from vlm_core.errors import Problem, SpecError, UserError, choices, shown
from vlm_core.io.yaml_loader import Document, Path_
from vlm_core.plugins.config import ComponentConfig, Kind
from vlm_core.plugins.hub import with_trust
from vlm_core.plugins.registry import installed

M = TypeVar("M", bound=BaseModel)
_EXPECTED = {
    "list_type": "a list: [ … ]",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
}
"""What pydantic's types of errors expect, in words of YAML."""


def _resolve(kind: Kind, value: Any) -> Any:
    """The config of the component that a mapping's `type` names; a config is returned unchanged."""
    if isinstance(value, ComponentConfig):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        text = f"expected a mapping with a type{choices(None, installed().names(kind))}"
        raise PydanticCustomError("component", "{text}", {"text": text})
    try:
        config = installed().get(kind, value["type"])
    except UserError as error:
        raise PydanticCustomError("component", "{text}", {"text": str(error), "at": "type"}) from None
    try:
        return with_trust(config.model_validate(value), "commits")
    except ValidationError as error:
        nested = [(config, problem) for problem in error.errors(include_url=False)]
        raise PydanticCustomError("nested", "invalid component", {"nested": nested}) from None


@dataclass(frozen=True)
class component:  # lower case: it is written like a function inside `Annotated`
    """Metadata of an `Annotated` field whose value is a component of this kind from the registry."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_before_validator_function(
            lambda value: _resolve(self.kind, value), handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Any installed type with its keys, not expanded: components may contain components of their own kind."""
        names = {"enum": installed().names(self.kind), "description": f"an installed {self.kind}"}
        return {"type": "object", "required": ["type"], "properties": {"type": names}}


def _model_at(model: Any, path: Path_) -> type[BaseModel] | None:
    """The model class with the field `path[-1]`, found by following annotations from `model`."""
    for key in path[:-1]:
        if isinstance(key, int):  # an item of a list: its model is that of the list's key
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel) and key in model.model_fields):
            return None
        annotation = model.model_fields[key].annotation
        options = [annotation, *get_args(annotation)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return model


def _text(model: type[BaseModel], error: Any) -> str:
    kind, loc, seen = error["type"], error["loc"], error.get("input")
    if kind == "extra_forbidden":
        owner = _model_at(model, loc)
        if owner and (name := getattr(owner, "renamed", {}).get(loc[-1])):
            return f"this key is now called {name}"
        if owner and (path := getattr(owner, "elsewhere", {}).get(loc[-1])):
            return f"unknown key here; use {path}"
        return "unknown key" + (choices(loc[-1], owner.model_fields) if owner else "")
    if kind == "missing":
        return "this key is required"
    if kind == "literal_error":
        allowed = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"unknown value {shown(seen)}{choices(seen, allowed)}"
    if kind == "too_short" and isinstance(seen, str):  # pydantic counts the characters of a path as items
        return f"got {shown(seen)}: expected at least {error['ctx']['min_length']} character"
    message = error["msg"].removeprefix("Value error, ")
    if kind in ("component", "value_error"):
        return message
    if message.startswith("Input should be "):
        number = "a number " if kind.startswith(("greater_than", "less_than")) else ""
        message = f"expected {_EXPECTED.get(kind) or number + message.removeprefix('Input should be ')}"
    return f"got {shown(seen)}: {message[:1].lower()}{message[1:]}"


def _problems(document: Document, at: Path_, model: type[BaseModel], errors: list[Any]) -> list[Problem]:
    problems: list[Problem] = []
    for error in errors:
        # pydantic puts the branch of a union into `loc`; the document has no such key
        loc = tuple(key for key in error["loc"] if not (isinstance(key, str) and not key.isidentifier()))
        if error["type"] == "nested":
            for config, inner in error["ctx"]["nested"]:
                problems += _problems(document, (*at, *loc), config, [inner])
            continue
        extra = (error["ctx"]["at"],) if "at" in error.get("ctx", {}) else ()
        problems.append(document.problem((*at, *loc, *extra), _text(model, error)))
    return _joined(problems)


def _joined(problems: list[Problem]) -> list[Problem]:
    """One problem for each value that no type of a union accepts, of those that pydantic has for each type."""
    joined: list[Problem] = []
    for problem in problems:
        start, _, expected = problem.text.partition(": ")
        last = joined[-1] if joined else None
        same = last and (last.where, last.path) == (problem.where, problem.path)
        if last and same and last.text.startswith("got ") and start.startswith(("got ", "unknown value ")):
            joined[-1] = replace(last, text=f"{last.text}, or {expected.removeprefix('expected ')}")
        else:
            joined.append(problem)
    return joined


def validate(model: type[M], document: Document, at: Path_ = ()) -> M:
    """Validate the value of `document` at path `at` as `model`; raises `SpecError` with all faults."""
    data = document.data
    for key in at:
        data = data[key]
    if not isinstance(data, dict):
        raise SpecError([document.problem(at, f"expected a mapping of keys, got {shown(data)}")])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SpecError(_problems(document, at, model, error.errors(include_url=False))) from None
