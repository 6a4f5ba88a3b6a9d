"""Strict JSON parsing of untrusted files: ambiguous and non-standard content is an error with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from vlm_core.errors import UserError
from vlm_core.io.files import RepeatedKeyError, unique_keys

MAX_DIGITS = 400
"""Limit of digits of an integer: ids and counts have fewer, and converting more is slow in Python."""
MAX_DEPTH = 64
"""Limit of nested lists and objects."""
_SURROGATE = re.compile(
    r"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..", re.DOTALL
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NESTED = frozenset({dict, list})  # the types of decoded values are exact: a set is faster than isinstance
_BRACKET = re.compile(rf"{_QUOTED.pattern}|[][{{}}]", re.DOTALL)


def parse_strict(
    text: str, path: str | Path, first: int = 1, *, only: bool = False, as_written: bool = False
) -> Any:
    """The value of JSON text that begins in line `first` of `path`; with `only` that line is all of it.

    With `as_written`, what Python's `json.dumps` writes beyond JSON is read: NaN, infinity, halves of pairs.

    Raises `UserError` for text that is no JSON, a key that an object has twice, NaN and infinity, whole numbers of
    more than `MAX_DIGITS` digits, unpaired surrogates, and nesting deeper than `MAX_DEPTH`.
    """

    def where(place: int) -> str:
        return f"{path}:{first + text.count(chr(10), 0, max(0, place))}"

    try:
        value = (_LENIENT if as_written else _DECODER).decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH and _nests_deeply(value):
            raise RecursionError
        # of a large file the regular expression alone takes as long as parsing
        if not as_written and "\\u" in text and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        hint = "; is the file cut off?" if at_end else ""
        raise UserError(f"{where(error.pos)}: not valid JSON ({error.msg}){hint}") from None
    except RepeatedKeyError as error:
        raise UserError(f"{where(0) if only else path}: {error} in one JSON object") from None
    except _RefusedError as error:
        raise UserError(f"{where(_place_of(error.spelling, text))}: {error}") from None
    except RecursionError:
        raise UserError(
            f"{where(_too_deep(text))}: JSON nested too deeply; at most {MAX_DEPTH} levels are read"
        ) from None
    except UnicodeEncodeError:
        surrogate = _SURROGATE.search(text)
        raise UserError(
            f"{where(surrogate.start() if surrogate else 0)}: unpaired surrogate"
            + (f": {surrogate[0]}" if surrogate else "")
        ) from None


def parse_strict_line(line: str, path: str | Path, number: int) -> Any:
    """The value of a line of JSON lines, as `parse_strict` reads it; faster for a line that has nothing unusual."""
    if "\\u" not in line and line.count("[") + line.count("{") <= MAX_DEPTH:
        try:
            value, end = _DECODER.raw_decode(line)
        except ValueError:  # `parse_strict` names the fault
            value, end = None, -1
        if end == len(line):
            return value
    return parse_strict(line, path, number, only=True)


class _RefusedError(ValueError):
    """A number that is refused, and its spelling in the text."""

    def __init__(self, spelling: str, message: str) -> None:
        super().__init__(message)
        self.spelling = spelling


def _constant(spelling: str) -> NoReturn:
    raise _RefusedError(spelling, f"{spelling} is no number of JSON; expected a finite one, or null")


def _integer(spelling: str) -> int:
    if len(spelling) > MAX_DIGITS:
        raise _RefusedError(spelling, f"a number of {len(spelling)} digits; at most {MAX_DIGITS} are read")
    return int(spelling)


def _real(spelling: str) -> float:
    if (value := float(spelling)) in (float("inf"), float("-inf")):
        raise _RefusedError(spelling, f"the number {spelling:.40} is too large")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_constant=_constant, parse_int=_integer, parse_float=_real
)


_LENIENT = json.JSONDecoder(object_pairs_hook=unique_keys, parse_int=_integer)


def _place_of(spelling: str, text: str) -> int:
    """The position of a number outside of strings."""
    return _QUOTED.sub(lambda quoted: " " * len(quoted[0]), text).find(spelling)


def _too_deep(text: str) -> int:
    """The position at which the nesting exceeds `MAX_DEPTH`."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket[0], 0)
        if depth > MAX_DEPTH:
            return bracket.start()
    return 0


def _nests_deeply(value: Any) -> bool:
    """Whether lists and objects are nested deeper than `MAX_DEPTH`; without recursion."""
    level = [value] if type(value) in _NESTED else []
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _NESTED
        ]
    return bool(level)


def validated(data: Any, model: type[BaseModel], what: str, advice: str = "") -> dict[str, Any]:
    """`data` if it is valid for `model`; otherwise a `UserError` that begins with `what` and names the first fault."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{what}, {where!r:.80}: {first['msg']}{advice}") from None
    return data
