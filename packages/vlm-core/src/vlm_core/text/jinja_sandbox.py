"""Renders chat templates as transformers does: jinja2's sandbox, with bounds on text, numbers, loops and time.

A template comes with a tokenizer and is untrusted. The sandbox denies access to the interpreter; the bounds limit
memory and time.
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
MAX_TEXT = 1 << 22
"""Characters of one text, or of all texts in a list, plus `ITEM` for each item."""
MAX_TOTAL = 1 << 26
"""Characters of all texts and lists that a rendering makes, searches, compares or writes."""
ITEM = 16
MAX_NUMBER = 1 << 32
MAX_LOOPS = 200_000
CALL = 4
"""Loop iterations that one call counts as: it takes as long."""
MAX_SECONDS = 5.0
"""A fallback: on an idle machine the bounds above are reached earlier."""


class TooMuch(Exception):
    """A template exceeds a bound."""


class TooMuchError(UserError):
    """`TooMuch` as a user's error."""


@dataclass
class _Budget:
    """The remaining budget of one rendering."""

    loops: int = MAX_LOOPS
    text: int = MAX_TOTAL
    end: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)

    def loop(self, iterations: int = 1) -> None:
        self.loops -= iterations
        if self.loops < 0 or time.monotonic() > self.end:
            raise TooMuch(
                f"more than {MAX_LOOPS} loop iterations ({CALL} for each call), or {MAX_SECONDS:g} seconds"
            )

    def take(self, size: int) -> None:
        self.text -= size
        if size > MAX_TEXT or self.text < 0:
            raise TooMuch(f"texts of more than {MAX_TEXT} characters, or of {MAX_TOTAL} together")


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)
_SIZED = (str, bytes, list, tuple, dict)
_WIDE = re.compile(r"\d{6}|\*|:[^}]*\{")
_SHALLOW = frozenset({
    "length", "count", "first", "last", "list", "reverse", "default", "d", "items", "attr", "batch", "slice",
    "map", "select", "reject", "selectattr", "rejectattr",
})  # fmt: skip
"""Filters that don't read the items of a list."""
_REMOVED_FILTERS = (
    "pprint",
    "random",
    "urlize",
    "striptags",
    "xmlattr",
    "wordwrap",
    "wordcount",
    "filesizeformat",
)
"""Removed filters: for web pages, with more than linear time in the text."""
_METHODS = ("translate", "maketrans", "expandtabs")
"""String methods whose result may be far longer than the text."""


def _size(value: Any) -> int:
    """Characters and items of a value and, recursively, of its items."""
    from jinja2.utils import Namespace

    size, waiting = 0, [value]
    while waiting and size <= MAX_TEXT:
        inner = waiting.pop()
        if isinstance(inner, str | bytes):
            size += len(inner)
            continue
        if isinstance(inner, Namespace):
            inner = getattr(inner, "_Namespace__attrs")  # noqa: B009  # no public accessor
        if isinstance(inner, Mapping):
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple | set | frozenset):
            waiting += inner
        size += ITEM
    return size


def _bounded(value: Any) -> Any:
    """Charge a value to the budget before it is written, compared or searched, or after it is made."""
    if (budget := _budget.get()) is not None:  # none while constants are computed at compile time
        budget.take(_size(value))
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise TooMuch(f"a number above {MAX_NUMBER}")
    return value


def _may_call(name: str, arguments: list[Any]) -> None:
    """Raise `TooMuch` for a call whose result would be too large to be made."""
    if name in _METHODS and arguments and isinstance(arguments[0], str):
        raise TooMuch(f"`{name}`, which may make far longer texts")
    sizes = [len(a) for a in arguments if isinstance(a, _SIZED)]
    numbers = [abs(a) for a in arguments if isinstance(a, int | float)]
    largest = max(numbers, default=0) * (max(sizes, default=1) if name in ("*", "indent") else 1)
    if name in ("replace", "join") and sizes:
        largest = max(largest, sizes[0] * max(sizes[1:], default=0))
    if name in ("%", "format") and isinstance(arguments[0], str) and _WIDE.search(arguments[0]):
        raise TooMuch("a format of that width")
    if largest > MAX_TEXT or (name == "**" and largest > 64):
        raise TooMuch(f"`{name}` that gives more than {MAX_TEXT} characters")
    if (budget := _budget.get()) is not None:
        shallow = name in _SHALLOW
        budget.take(
            max(
                (ITEM + len(a) if shallow and isinstance(a, _SIZED) else _size(a) for a in arguments),
                default=0,
            )
        )


def _listed(value: Any) -> Any:
    """The remaining items of an iterator as a list, whose size is known."""
    return list(_counted(value)) if isinstance(value, Iterator) else value


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test with bounded arguments and result; a first environment or context argument is not counted."""
    passed = bool(getattr(function, "jinja_pass_arg", None))

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        values = [*args[:passed], *map(_listed, args[passed:])]
        _may_call(name, [*values[passed:], *kwargs.values()])
        result = function(*values, **kwargs)
        return result if name in _SHALLOW else _bounded(result)

    return guarded


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget.get()
    for item in items:
        if budget is not None:
            budget.loop()
        yield item


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text; here its content is rendered unchanged."""

        tags = {"generation"}  # noqa: RUF012  # jinja2 reads it from the class

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _may_call(operator, [left, right])
            return _bounded(super().call_binop(context, operator, left, right))

        def wrap_str_format(self, value: Any) -> Any:
            name, owner = getattr(value, "__name__", ""), getattr(value, "__self__", None)
            if name in ("format", "format_map") and isinstance(owner, str):
                _may_call("format", [owner])
            return super().wrap_str_format(value)

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            if (budget := _budget.get()) is not None:
                budget.loop(CALL)
            owner, values = getattr(obj, "__self__", None), [*map(_listed, args)]
            _may_call(str(getattr(obj, "__name__", "")), [owner, *values, *kwargs.values()])
            return _bounded(super().call(context, obj, *values, **kwargs))

    environment = Bounded(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=_bounded
    )
    environment.filters |= {"tojson": _tojson}
    environment.filters = {
        n: _guarded(n, f) for n, f in environment.filters.items() if n not in _REMOVED_FILTERS
    }
    environment.filters |= {"counted": _counted, "bounded": _bounded}
    environment.tests = {name: _guarded(name, function) for name, function in environment.tests.items()}
    del environment.globals["lipsum"]

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals |= {"raise_exception": refuse, "strftime_now": _strftime_now, "dict": _plain_dict}
    return environment, nodes


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
    """`dict` as a function: the class has methods that a template must not call."""
    return dict(*args, **kwargs)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """The compiled template, with counted loops and bounded concatenations."""
    environment, nodes = _environment()
    tree = environment.parse(source)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
    for node in list(tree.find_all(nodes.Node)):
        _bound_operands(node, nodes)
    return environment.from_string(tree)


def _bound_operands(node: Any, nodes: Any) -> None:
    """Bound operands of concatenations and comparisons, and results of concatenations and slices."""

    def bounded(value: Any) -> Any:
        return nodes.Filter(value, "bounded", [], [], None, None, lineno=value.lineno)

    if isinstance(node, nodes.Concat):
        node.nodes = [bounded(inner) for inner in node.nodes]
    elif isinstance(node, nodes.Compare | nodes.Operand):
        node.expr = bounded(node.expr)
    for name, value in node.iter_fields():
        sliced = isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice)
        if isinstance(value, nodes.Concat) or (sliced and value.ctx == "load"):
            setattr(node, name, bounded(value))


def render_jinja(source: str, variables: Mapping[str, Any]) -> str:
    """The rendered text; raises `UserError` for a template that fails, rejects the conversation or exceeds a bound."""
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
        raise TooMuchError(f"the tokenizer's chat template exceeds a bound: {error}") from None
    except Exception as error:  # untrusted code and jinja2 raise many types
        line = getattr(error, "lineno", None)
        where = f" at line {line}" if line else ""
        raise UserError(
            f"the tokenizer's chat template fails{where}: {str(error) or type(error).__name__:.300}"
        ) from None
    finally:
        _budget.reset(token)
