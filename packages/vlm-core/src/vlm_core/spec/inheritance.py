"""`base: other.yaml`: a spec that contains only its differences from another file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from vlm_core.errors import Problem, SpecError, UserError
from vlm_core.io.paths import expanded
from vlm_core.io.yaml_loader import MAX_BYTES, MAX_NODES, Change, Document, Layer, Path_, read

KEY = "base"
MAX_BASES = 32


def read_with_base(path: str | Path) -> Document:
    """Read a spec file and merge it into its bases; each value keeps the file and line that it comes from.

    A base is named relative to the file that names it. Mappings are merged key by key; other values replace the
    base's, and so does a mapping with another `type`. `layers` is the chain of files, the deepest base first. Raises
    `SpecError` at the line of `base` for a circular base, a file that can't be read, more than `MAX_BASES` bases, or
    files that together exceed the limit of one file.
    """
    chain = [read(path)]
    while isinstance(chain[-1].data, dict) and KEY in chain[-1].data:
        chain.append(_base(chain))
    document = chain.pop()
    document.layers = [Layer(document.file, [])]
    while chain:
        document = _over(document, chain.pop())
    return document


def _over(base: Document, document: Document) -> Document:
    """`document` merged over its `base`."""
    where, at = document.where((KEY,)), document.lines.get((), base.where(()))
    del document.data[KEY]
    changes = _merge(base, document, ())
    if len(base.lines) > MAX_NODES:
        text = f"with its base, {document.file} holds more than {MAX_NODES} values"
        raise SpecError([Problem(where, KEY, text)])
    document.data, document.lines = base.data, {**base.lines, (): at}
    document.layers = [*base.layers, Layer(document.file, changes)]
    return document


def _base(chain: Sequence[Document]) -> Document:
    """Read the base that the last document of `chain` names; errors are located at its `base` key."""
    document = chain[-1]
    name, where = document.data[KEY], document.where((KEY,))
    if len(chain) > MAX_BASES:
        raise SpecError(
            [Problem(where, KEY, f"more than {MAX_BASES} bases in a chain; at most {MAX_BASES} are read")]
        )
    if not isinstance(name, str) or not name:
        raise SpecError([Problem(where, KEY, f"expected the name of a spec file, got {name!r:.60}")])
    try:
        file = resolve_relative(document.file, name)
    except UserError as error:
        raise SpecError([Problem(where, KEY, str(error))]) from None
    names = [one.file for one in chain]
    if os.path.realpath(file) in map(os.path.realpath, names):
        circle = " → ".join([*names, str(file)])
        raise SpecError([Problem(where, KEY, f"a spec can't be based on itself: {circle}")])
    try:
        base = read(file)
    except SpecError:
        raise
    except UserError as error:
        text = f"{error}; a base is named relative to the file that names it"
        raise SpecError([Problem(where, KEY, text)]) from None
    if (size := sum(one.size for one in (*chain, base))) > MAX_BYTES:
        text = f"with {file}, the files are together {size} characters; at most {MAX_BYTES} are read"
        raise SpecError([Problem(where, KEY, text)])
    if not isinstance(base.data, dict):
        raise SpecError([Problem(where, KEY, f"{file} is not a mapping; expected a spec")])
    return base


def resolve_relative(file: str, name: str) -> Path:
    """The path of `name` relative to the folder of `file`, normalised if that leads to the same file."""
    path = Path(file).parent / expanded(name)
    short = Path(os.path.normpath(path))
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def _merge(base: Document, over: Document, at: Path_) -> list[Change]:
    """Merge the mapping of `over` at path `at` into `base` in place, with its lines -> the changes."""
    old, new = _at(base.data, at), _at(over.data, at)
    changes = []
    for key, value in new.items():
        path = (*at, key)
        if key in old and _mergeable(old[key], value):
            base.lines[path] = over.lines[path]
            changes += _merge(base, over, path)
            continue
        if key not in old or old[key] != value:
            changes.append(Change(path, deepcopy(old.get(key)), value))
        for replaced in _paths(old.get(key), path):
            base.lines.pop(replaced, None)
        base.lines |= {added: over.lines[added] for added in _paths(value, path)}
        old[key] = value
    return changes


def _paths(value: Any, path: Path_) -> Iterator[Path_]:
    """The path of `value`, which is `path`, and the paths of all values inside it."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _mergeable(old: Any, new: Any) -> bool:
    """Whether both are mappings and `new` doesn't change the `type`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    return "type" not in new or new["type"] == old.get("type")


def _at(data: Any, path: Path_) -> Any:
    for key in path:
        data = data[key]
    return data
