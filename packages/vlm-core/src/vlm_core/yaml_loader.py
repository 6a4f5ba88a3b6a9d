"""YAML as people expect it, with the line of every value.

PyYAML alone reads `1e-5` as a string, `010` as 8 and `yes` as true, keeps the last of two equal keys and
expands alias bombs. Here scalars follow YAML 1.2's core schema, and those traps are errors with a line.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlm_core.errors import Problem, SpecError, UserError
from vlm_core.files import decode_text

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1_000_000, 40, 50_000
_SCALARS = [
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), lambda text: None),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), lambda text: text.lower() == "true"),
    ("int", re.compile(r"^[-+]?[0-9]+$"), int),
    ("float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"), float),
    ("nan", re.compile(r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"), lambda t: float(t.replace(".", ""))),
]
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Change:
    """A value that a file puts in place of its base's (None where the base has none)."""

    path: Path_
    old: Any
    new: Any


@dataclass(frozen=True)
class Layer:
    """One file of a chain of bases, and what it changes in the one before it."""

    file: str
    changes: list[Change]


@dataclass
class Document:
    """A parsed file: plain data, where each value stands, and the files it was put together from."""

    file: str
    data: Any
    lines: dict[Path_, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def where(self, path: Path_) -> str:
        """`file:line` of the value at `path`, or of the nearest parent that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.file)

    def problem(self, path: Path_, text: str) -> Problem:
        return Problem(self.where(path), ".".join(str(p) for p in path), text)


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.style in ("'", '"', "|", ">"):
        return node.value
    for _, pattern, convert in _SCALARS:
        if pattern.match(node.value):
            return convert(node.value)
    return node.value


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document, self.count = document, 0

    def fail(self, node: yaml.Node, path: Path_, text: str) -> SpecError:
        where = f"{self.document.file}:{node.start_mark.line + 1}"
        return SpecError([Problem(where, ".".join(map(str, path)), text)])

    def build(self, node: yaml.Node, path: Path_) -> Any:
        self.count += 1
        if self.count > MAX_NODES or len(path) > MAX_DEPTH:
            limit = f"{MAX_NODES} values or {MAX_DEPTH} levels"
            raise self.fail(node, path, f"the file is larger than {limit} (aliases counted)")
        if node.tag not in _TAGS:
            raise self.fail(node, path, f"the tag {node.tag} is not allowed")
        self.document.lines[path] = f"{self.document.file}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        return self.mapping(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise self.fail(key_node, path, "a key must be a plain word")
            if key in result:
                first = self.document.lines[(*path, key)]
                raise self.fail(key_node, (*path, key), f"this key appears twice; the first is at {first}")
            result[key] = self.build(value_node, (*path, key))
            self.document.lines[(*path, key)] = f"{self.document.file}:{key_node.start_mark.line + 1}"
        return result


def parse(text: str, file: str) -> Document:
    """Parse YAML text; raises `SpecError` with `file` and line."""
    document = Document(file, None)
    if len(text) > MAX_BYTES:
        raise UserError(f"{file}: {len(text)} characters; a spec holds at most {MAX_BYTES}")
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise SpecError([Problem(f"{file}{line}", "", f"not valid YAML: {error.problem}")]) from None
    except (yaml.YAMLError, RecursionError) as error:
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        raise SpecError([Problem(file, "", f"not valid YAML: {detail}")]) from None
    document.data = _Builder(document).build(node, ()) if node else None
    return document


def read(path: str | Path) -> Document:
    """Read and parse a YAML file; a missing or unreadable file is a `UserError`."""
    try:
        text = decode_text(Path(path).read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: cannot read this spec: {error.strerror or error}") from None
    return parse(text, str(path))


def override(document: Document, assignment: str) -> None:
    """Apply `dotted.path=value` (value in YAML) from the command line to the document in place."""
    dotted, equals, text = assignment.partition("=")
    where = f"--set {assignment}"
    if not equals or not dotted:
        raise UserError(f"{where}: expected dotted.path=value")
    put(document, dotted, parse(text, where).data, where)


def put(document: Document, dotted: str, value: Any, where: str) -> None:
    """Set the value at a dotted path in place; from now on `where` is what faults in it are said to stand at.

    Raises `UserError` if the path leads through something that isn't there.
    """
    path = tuple(int(part) if part.isdigit() else part for part in dotted.strip().split("."))
    target = document.data
    for i, key in enumerate(path[:-1]):
        try:
            target = target[key]
        except (KeyError, IndexError, TypeError):
            seen = ".".join(map(str, path[: i + 1]))
            raise UserError(f"{where}: the spec has no {seen}") from None
    try:
        target[path[-1]] = deepcopy(value)
    except (IndexError, TypeError):
        raise UserError(f"{where}: {'.'.join(map(str, path[:-1]))} cannot hold it") from None
    document.lines = {at: line for at, line in document.lines.items() if at[: len(path)] != path}
    document.lines[path] = where
