"""Renders chat templates as transformers does: jinja2's sandbox, with bounds on text, numbers, loops and time.

A template comes with a tokenizer, from a stranger. The sandbox keeps it from the interpreter; the bounds keep it from
taking all memory or all time.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from vlm_core.errors import UserError

MAX_SOURCE = 1 << 18
MAX_TEXT = 1 << 24
"""Characters of the largest string, or items of the largest list, that may arise."""
MAX_TOTAL = 1 << 28
MAX_NUMBER = 1 << 32
MAX_LOOPS = 1_000_000
MAX_SECONDS = 10.0


class TooMuch(Exception):
    """A bound is reached."""


@dataclass
class _Budget:
    """What is left of one rendering."""

    loops: int = MAX_LOOPS
    text: int = MAX_TOTAL
    end: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)

    def loop(self) -> None:
        self.loops -= 1
        if self.loops < 0 or time.monotonic() > self.end:
            raise TooMuch(f"more than {MAX_LOOPS} loop iterations, or {MAX_SECONDS:g} seconds")


_budget: ContextVar[_Budget] = ContextVar("budget")
_SIZED = (str, bytes, list, tuple)
_WIDE = re.compile(r"\d{6}|\*|:[^}]*\{")


def _bounded(value: Any) -> Any:
    if isinstance(value, _SIZED):
        budget = _budget.get()
        budget.text -= len(value)
        if len(value) > MAX_TEXT or budget.text < 0:
            raise TooMuch(f"texts of more than {MAX_TEXT} characters")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise TooMuch(f"a number above {MAX_NUMBER}")
    return value


def _may_call(name: str, arguments: list[Any]) -> None:
    """Refuse a call whose result would be too large to be looked at afterwards."""
    sizes = [len(a) for a in arguments if isinstance(a, _SIZED)]
    numbers = [abs(a) for a in arguments if isinstance(a, int | float)]
    largest = max(numbers, default=0) * (max(sizes, default=1) if name in ("*", "indent") else 1)
    if name in ("replace", "join") and sizes:
        largest = max(largest, sizes[0] * max(sizes[1:], default=0))
    if name in ("%", "format") and isinstance(arguments[0], str) and _WIDE.search(arguments[0]):
        raise TooMuch("a format of that width")
    if largest > MAX_TEXT or (name == "**" and largest > 64):
        raise TooMuch(f"`{name}` that gives more than {MAX_TEXT} characters")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _may_call(name, [*args, *kwargs.values()])
        return _bounded(function(*args, **kwargs))

    return guarded


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _budget.get().loop()
        yield item


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant says, for whoever wants to know; here it is plain text."""

        tags = {"generation"}  # noqa: RUF012  # jinja2 reads it from the class

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator in ("*", "**", "%"):
                _may_call(operator, [left, right])
            return _bounded(super().call_binop(context, operator, left, right))

        def wrap_str_format(self, value: Any) -> Any:
            name, owner = getattr(value, "__name__", ""), getattr(value, "__self__", None)
            if name in ("format", "format_map") and isinstance(owner, str):
                _may_call("format", [owner])
            return super().wrap_str_format(value)

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            _budget.get().loop()
            owner = getattr(obj, "__self__", None)
            _may_call(str(getattr(obj, "__name__", "")), [owner, *args, *kwargs.values()])
            return _bounded(super().call(context, obj, *args, **kwargs))

    found = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    found.filters = {name: _guarded(name, function) for name, function in found.filters.items()}
    found.filters |= {"tojson": _tojson, "counted": _counted, "bounded": _bounded}

    def refuse(message: str) -> None:
        raise TemplateError(message)

    found.globals |= {"raise_exception": refuse, "strftime_now": _strftime_now, "dict": _plain_dict}
    return found, nodes


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _plain_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """Not the class itself, whose methods lead further."""
    return dict(*args, **kwargs)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """The template with its loops counted and what it joins looked at."""
    environment, nodes = _environment()
    tree = environment.parse(source)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
    for node in list(tree.find_all(nodes.Node)):
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, name, nodes.Filter(value, "bounded", [], [], None, None, lineno=value.lineno))
    return environment.from_string(tree)


def render_jinja(source: str, variables: Mapping[str, Any]) -> str:
    """The text; raises `UserError` for a template that fails, refuses the conversation or goes on for too long."""
    if len(source) > MAX_SOURCE:
        raise UserError(f"the chat template has {len(source)} characters; expected at most {MAX_SOURCE}")
    token = _budget.set(_Budget())
    try:
        text, size = [], 0
        for chunk in _compiled(source).generate(variables):
            text.append(chunk)
            size += len(chunk)
            if size > MAX_TEXT:
                raise TooMuch(f"a text of more than {MAX_TEXT} characters")
        return "".join(text)
    except TooMuch as error:
        raise UserError(f"the tokenizer's chat template asks for too much: {error}") from None
    except Exception as error:  # whatever a stranger's code stumbles over; jinja2's own errors are many, too
        line = getattr(error, "lineno", None)
        where = f" at line {line}" if line else ""
        raise UserError(
            f"the tokenizer's chat template fails{where}: {str(error) or type(error).__name__:.300}"
        ) from None
    finally:
        _budget.reset(token)
