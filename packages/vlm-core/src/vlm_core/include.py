"""`base: other.yaml`: a spec that says only how it differs from another file."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from vlm_core.errors import Problem, SpecError, UserError
from vlm_core.paths import expanded
from vlm_core.yaml_loader import Change, Document, Layer, Path_, read

KEY = "base"


def read_with_base(path: str | Path) -> Document:
    """The file with everything that it takes from its bases; each value keeps the line it really came from.

    A base is named relative to the file that names it. Mappings are merged key by key; anything else replaces
    what the base has, and so does a mapping whose `type` differs from the base's. `layers` tells the chain,
    the deepest base first. Raises `SpecError` at the line of `base` for a circle or a file that can't be read.
    """
    return _resolve(read(path), ())


def _resolve(document: Document, above: tuple[str, ...]) -> Document:
    """`above` are the files, shown as they were named, whose base this document is."""
    chain = (*above, document.file)
    if not isinstance(document.data, dict) or KEY not in document.data:
        document.layers = [Layer(document.file, [])]
        return document
    base = _resolve(_base(document, chain), chain)
    del document.data[KEY]
    changes = _merge(base, document, ())
    where = base.where(())
    document.data, document.lines = base.data, {**base.lines, (): document.lines.get((), where)}
    document.layers = [*base.layers, Layer(document.file, changes)]
    return document


def _base(document: Document, chain: tuple[str, ...]) -> Document:
    """Read what `base` names; every fault stands at its line."""
    name, where = document.data[KEY], document.where((KEY,))
    if not isinstance(name, str) or not name:
        raise SpecError([Problem(where, KEY, f"expected the name of a spec file, got {name!r:.60}")])
    try:
        file = beside(document.file, name)
    except UserError as error:
        raise SpecError([Problem(where, KEY, str(error))]) from None
    if file.resolve() in {Path(one).resolve() for one in chain}:
        circle = " → ".join([*chain, str(file)])
        raise SpecError([Problem(where, KEY, f"a spec can't be based on itself: {circle}")])
    try:
        found = read(file)
    except SpecError:
        raise
    except UserError as error:
        text = f"{error}; a base is named relative to the file that names it"
        raise SpecError([Problem(where, KEY, text)]) from None
    if not isinstance(found.data, dict):
        raise SpecError([Problem(where, KEY, f"{file} holds no mapping, so nothing can be based on it")])
    return found


def beside(file: str, name: str) -> Path:
    """The file `name` as seen from `file`, without `..` in the middle where that is the same file."""
    path = Path(file).parent / expanded(name)
    short = Path(os.path.normpath(path))
    return short if short.resolve() == path.resolve() else path


def _merge(base: Document, over: Document, at: Path_) -> list[Change]:
    """Write `over` at path `at` into `base` in place, lines included; returns what changed."""
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
        base.lines = {p: line for p, line in base.lines.items() if p[: len(path)] != path}
        base.lines |= {p: line for p, line in over.lines.items() if p[: len(path)] == path}
        old[key] = value
    return changes


def _mergeable(old: Any, new: Any) -> bool:
    """Two mappings that describe the same kind of thing."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    return "type" not in new or new["type"] == old.get("type")


def _at(data: Any, path: Path_) -> Any:
    for key in path:
        data = data[key]
    return data
