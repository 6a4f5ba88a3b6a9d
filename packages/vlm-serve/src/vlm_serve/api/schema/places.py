"""The place of a wrong value in a body, as a client would write it, and one sentence about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm_core.errors import shown
from vlm_core.markup.printable import printable
from vlm_serve.api.errors import refused
from vlm_serve.api.guard.errors import RequestError

TAG = "@"
"""Begins the tags of unions, which are no part of a place."""
LONGEST_NAME = 60
_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_LIMITS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
}
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported": "unsupported_parameter",
}


def fault(error: Mapping[str, Any], body: Any) -> RequestError:
    """The error of one entry of pydantic's `ValidationError.errors()`."""
    kind, context, value = error["type"], error.get("ctx") or {}, error["input"]
    place = place_of(error["loc"], named_key=kind == "extra_forbidden")
    if kind == "kind":
        return _kind_fault(place, error["msg"], value)
    if kind == "together":
        place = place_of((*error["loc"], context["field"]))
    code = _CODES.get(kind, "invalid_type" if kind in _EXPECTED else "invalid_value")
    return refused(place or "body", sentence(error), code=code)


def _kind_fault(place: str, message: str, value: Any) -> RequestError:
    """A member of a union that can't be told from its `key`; without a key, from its type."""
    key, _, expected = message.partition("\n")
    if not key or not isinstance(value, dict):
        expected = "an object" if key else expected
        return refused(place, f"expected {expected}, got {json_type(value)}", code="invalid_type")
    place = f"{place}.{key}" if place else key
    if key not in value:
        return refused(place, "required, but missing", code="missing_required_parameter")
    return refused(place, f"unknown {expected}, got {shown(value[key])}")


def sentence(error: Mapping[str, Any]) -> str:
    """What is wrong, of one entry of pydantic's `ValidationError.errors()`."""
    kind, context, value, message = error["type"], error.get("ctx") or {}, error["input"], error["msg"]
    if kind == "missing":
        return "required, but missing"
    if kind == "extra_forbidden":
        return "unknown field"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {json_type(value)}"
    if kind in _LIMITS:
        return f"expected {_LIMITS[kind].format(**_short(context))}, got {shown(value)}"
    if kind == "string_pattern_mismatch":
        return f"expected text of the form {context['pattern']}, got {shown(value)}"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        bound = "at least" if kind.endswith("short") else "at most"
        count = context.get("min_length", context.get("max_length"))
        one, more = ("character", "characters") if kind.startswith("string") else ("entry", "entries")
        return f"expected {bound} {count} {one if count == 1 else more}"
    return message


def _short(context: Mapping[str, Any]) -> dict[str, Any]:
    """Limits as a client would write them: 2, not 2.0."""
    return {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}


def one_of(names: Iterable[str]) -> str:
    """`'a', 'b' or 'c'`."""
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}" if most else last


def place_of(loc: tuple[int | str, ...], *, named_key: bool = False) -> str:
    """`messages[2].content`, from pydantic's location; the tags of unions are left out.

    `named_key` says that the last step is a key that the client chose, whatever it begins with.
    """
    place = ""
    for i, step in enumerate(loc):
        if isinstance(step, int):
            place += f"[{step}]"
        elif not step.startswith(TAG) or (named_key and i == len(loc) - 1):
            name = printable(step, LONGEST_NAME)
            place += f".{name}" if place else name
    return place


def json_type(value: Any) -> str:
    """The type of a JSON value, with the value itself where that is short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {str: "a string", int: "an integer", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
