"""Strict YAML with the line of every value.

PyYAML reads `1e-5` as a string, `010` as 8 and `yes` as true, keeps the last of two equal keys and expands alias bombs.
Here scalars follow YAML 1.2's core schema, and repeated keys and large documents are errors with a line. The document
is built from PyYAML's events one by one, so that parsing stops at a limit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlm_core.errors import Problem, SpecError, UserError, choices
from vlm_core.io.files import decode_text, read_bytes
from vlm_core.io.yaml_scalars import NO_TEXT, value_of
from vlm_core.markup.printable import printable

MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_KEY = 250_000, 40, 10_000, 1000
_TAGS = {
    kind: (None, "!", f"tag:yaml.org,2002:{name}")
    for kind, name in (
        (yaml.ScalarEvent, "str"),
        (yaml.SequenceStartEvent, "seq"),
        (yaml.MappingStartEvent, "map"),
    )
}
_LIMIT = f"the file is larger than {MAX_NODES} values, {MAX_DEPTH} levels or {MAX_BYTES} characters (aliases counted)"
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Change:
    """A value that a file changes in its base; `old` is None if the base has none."""

    path: Path_
    old: Any
    new: Any


@dataclass(frozen=True)
class Layer:
    """One file of a chain of bases, and its changes to the one before it."""

    file: str
    changes: list[Change]


@dataclass
class Document:
    """A parsed file of `size` characters: plain data, file:line of each value by path, and the chain of files."""

    file: str
    data: Any
    size: int = 0
    lines: dict[Path_, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def where(self, path: Path_) -> str:
        """`file:line` of the value at `path`, or of the nearest parent that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.file)

    def problem(self, path: Path_, text: str) -> Problem:
        return Problem(self.where(path), ".".join(str(p) for p in path), text)


def _events(text: str, file: str) -> Iterator[yaml.Event]:
    """PyYAML's events; its exceptions become `SpecError` with the line."""
    loader = None
    try:
        loader = yaml.BaseLoader(text)
        while loader.check_event():
            yield loader.get_event()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _invalid(file, mark and mark.line, error.problem) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise _invalid(file, line, f"the character U+{error.character:04X} is not allowed") from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a version or an escape out of range
        raise _invalid(file, loader and loader.line, str(error).split("\n")[0]) from None


def _invalid(file: str, line: int | None, reason: str | None) -> SpecError:
    where = file if line is None else f"{file}:{line + 1}"
    hint = "; indent with spaces" if reason and r"'\t' that cannot start" in reason else ""
    return SpecError([Problem(where, "", f"not valid YAML: {printable(reason, 200)}{hint}")])


class _Builder:
    """Builds the values of one document from events, with the line of each."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self.document, self.events = document, events
        self.values = self.characters = 0
        self.anchors: dict[str, tuple[Any, Path_]] = {}

    def fail(self, event: yaml.Event, path: Path_, text: str) -> SpecError:
        where = f"{self.document.file}:{event.start_mark.line + 1}"
        return SpecError([Problem(where, ".".join(map(str, path)), text)])

    def count(self, event: yaml.Event, path: Path_, value: Any = None) -> None:
        """Count a value; raises `SpecError` above the limits."""
        self.values += 1
        self.characters += len(value) if isinstance(value, str) else 0
        if self.values > MAX_NODES or len(path) > MAX_DEPTH or self.characters > MAX_BYTES:
            raise self.fail(event, path, _LIMIT)

    def build(self, event: Any, path: Path_) -> Any:
        """The value that starts with `event`: an alias, a scalar, a sequence or a mapping."""
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path)
        if event.tag not in _TAGS[type(event)]:
            raise self.fail(event, path, f"the tag {printable(event.tag, 100)} is not allowed")
        self.count(event, path, getattr(event, "value", None))
        self.document.lines[path] = f"{self.document.file}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self.build(item, (*path, i)) for i, item in enumerate(self.items(yaml.SequenceEndEvent))]
        else:
            value = self.mapping(path)
        if event.anchor is not None:
            if event.anchor in self.anchors:
                raise self.fail(event, path, f"the anchor &{printable(event.anchor, 60)} appears twice")
            self.anchors[event.anchor] = value, path
        return value

    def items(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        """The first event of each item up to the `end`; the caller consumes the item's other events."""
        while not isinstance(event := next(self.events), end):
            yield event

    def scalar(self, event: yaml.ScalarEvent, path: Path_) -> Any:
        try:
            return value_of(event)
        except ValueError as error:
            raise self.fail(event, path, str(error)) from None

    def mapping(self, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for event in self.items(yaml.MappingEndEvent):
            key = self.key(event, path)
            if key in result:
                first = self.document.lines[(*path, key)]
                raise self.fail(event, (*path, key), f"this key appears twice; the first is at {first}")
            result[key] = self.build(next(self.events), (*path, key))
            self.document.lines[(*path, key)] = f"{self.document.file}:{event.start_mark.line + 1}"
        return result

    def key(self, event: yaml.Event, path: Path_) -> str:
        if (
            not isinstance(event, yaml.ScalarEvent)
            or event.tag not in _TAGS[yaml.ScalarEvent]
            or event.anchor
        ):
            raise self.fail(event, path, "a key must be a plain word")
        key = event.value
        if not key or len(key) > MAX_KEY or NO_TEXT.search(key):
            raise self.fail(event, path, f"a key must be a plain word of 1 to {MAX_KEY} characters")
        if key == "<<" and not event.style:
            raise self.fail(event, path, "merge keys are not read; write the keys out, or use `base`")
        self.characters += len(key)
        return key

    def alias(self, event: yaml.AliasEvent, path: Path_) -> Any:
        if event.anchor not in self.anchors:
            raise self.fail(
                event, path, f"there is no anchor &{printable(event.anchor, 60)} before this alias"
            )
        value, source = self.anchors[event.anchor]
        return self.copy(event, value, source, path)

    def copy(self, event: yaml.Event, value: Any, source: Path_, path: Path_) -> Any:
        """A copy of the value at `source` for `path`; its lines are those of the anchor."""
        self.count(event, path, value)
        self.document.lines[path] = self.document.lines[source]
        if isinstance(value, list):
            return [self.copy(event, v, (*source, i), (*path, i)) for i, v in enumerate(value)]
        if isinstance(value, dict):
            return {k: self.copy(event, v, (*source, k), (*path, k)) for k, v in value.items()}
        return value


def parse(text: str, file: str) -> Document:
    """Parse YAML text; raises `SpecError` with `file` and line."""
    if len(text) > MAX_BYTES:
        raise UserError(f"{file}: {len(text)} characters; a spec holds at most {MAX_BYTES}")
    document = Document(file, None, len(text))
    events = _events(text, file)
    builder = _Builder(document, events)
    documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.NodeEvent):
            document.data = builder.build(event, ())
        if documents > 1:
            raise builder.fail(event, (), "not valid YAML: a second document begins here; a file holds one")
    return document


def read(path: str | Path) -> Document:
    """Read and parse a YAML file; raises `UserError` if it is missing, unreadable or too large."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except UserError as error:
        reason = str(error).removeprefix(f"{printable(path)}: ").removeprefix("cannot read this file: ")
        inside = Path(path) / "spec.yaml"
        hint = f"; {inside} is one" if os.path.isfile(inside) else ""
        raise UserError(f"{path}: cannot read this spec: {reason}{hint}") from None
    return parse(decode_text(content, path), str(path))


def override(document: Document, assignment: str) -> None:
    """Apply `dotted.path=value` (value in YAML) from the command line to the document in place."""
    dotted, equals, text = assignment.partition("=")
    where = f"--set {printable(assignment, 100)}"
    if not equals or not dotted:
        raise UserError(f"{where}: expected dotted.path=value")
    put(document, dotted, parse(text, where).data, where)


def put(document: Document, dotted: str, value: Any, where: str) -> None:
    """Set the value at a dotted path in place; `where` is its location in later error messages.

    A number in the path is the index of a list's item. Raises `UserError` if a parent of the path doesn't exist.
    """
    target, path = document.data, ()
    *parents, last = dotted.strip().split(".")
    for name in parents:
        key, path = _key(target, name), (*path, _key(target, name))
        try:
            target = target[key]
        except (KeyError, IndexError, TypeError):
            missing = printable(".".join(map(str, path)), 100)
            known = choices(name, map(str, target)) if isinstance(target, dict) else ""
            raise UserError(f"{where}: the spec has no {missing}{known}") from None
    path = (*path, _key(target, last))
    try:
        target[path[-1]] = deepcopy(value)
    except (IndexError, TypeError):
        raise UserError(f"{where}: {'.'.join(map(str, path[:-1])) or 'the spec'} cannot hold it") from None
    document.lines = {at: line for at, line in document.lines.items() if at[: len(path)] != path}
    document.lines[path] = where


def _key(target: Any, name: str) -> str | int:
    """A component of a dotted path as a key of `target`, or as an index if that is a list."""
    return int(name) if isinstance(target, list) and re.fullmatch("[0-9]{1,6}", name) else name
