"""Exports Python modules into a model folder, flat, as transformers' trust_remote_code expects.

`vlm_core.text.render` becomes vlm_core_text_render.py; its imports of other exported modules become relative.
Nothing else changes. Imports inside functions don't add modules to the export.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vlm_core.errors import UserError

THIS = "THIS"
"""Variable in an exported file that refers to the module itself, for imports of modules."""


def flat(module: str) -> str:
    return module.replace(".", "_")


@lru_cache(maxsize=1024)
def _source(module: str) -> Path | None:
    """The source file of a module; None if there is no such module or it is not Python."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent is not a package
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@dataclass(frozen=True)
class Import:
    """`from module import name as alias` in an exported file; `target` is the module that it needs."""

    node: ast.ImportFrom
    name: str
    alias: str | None
    top: bool

    @property
    def is_module(self) -> bool:
        """Whether the imported name is a module."""
        return _source(f"{self.node.module}.{self.name}") is not None

    @property
    def target(self) -> str:
        return f"{self.node.module}.{self.name}" if self.is_module else str(self.node.module)


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imports(tree: ast.AST, packages: frozenset[str], top: bool = True) -> Iterator[Import]:
    """Imports from `packages`, except under `TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in packages:
            yield from (Import(node, alias.name, alias.asname, top) for alias in node.names)
        elif isinstance(node, ast.Import):
            wrong = [a.name for a in node.names if a.name.split(".")[0] in packages]
            if wrong:
                raise UserError(f"exported code must say `from … import …`, not `import {wrong[0]}`")
        elif not _typing_only(node):
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(node, packages, top and not inside)


def closure(roots: Iterable[str], packages: frozenset[str], instead: Mapping[str, str]) -> dict[str, str]:
    """Sources by module of the roots and all modules they import at the top; `instead` replaces some sources."""
    sources: dict[str, str] = {}
    pending = list(roots)
    while pending:
        module = pending.pop()
        if module in sources:
            continue
        file = _source(module)
        if module not in instead and file is None:
            raise UserError(f"{module}: no Python source to export with the model")
        sources[module] = instead.get(module) or Path(str(file)).read_text(encoding="utf-8")
        pending += [i.target for i in _imports(ast.parse(sources[module]), packages) if i.top]
    return sources


def _line(item: Import, exported: Mapping[str, str]) -> str:
    """The line that replaces an import."""
    if item.target not in exported:
        return f'raise ImportError("{item.target} is not exported with this model")'
    name = THIS if item.is_module else item.name
    alias = item.alias or (item.name if item.is_module else None)
    return f"from .{flat(item.target)} import {name}" + (f" as {alias}" if alias else "")


def rewritten(source: str, exported: Mapping[str, str], packages: frozenset[str]) -> str:
    """The content of an exported file: imports of exported modules are relative, those for type checkers removed."""
    lines, tree = source.splitlines(), ast.parse(source)
    changes: dict[ast.stmt, list[str]] = {}
    for item in _imports(tree, packages):
        changes.setdefault(item.node, []).append(_line(item, exported))
    for node in ast.walk(tree):
        if _typing_only(node):
            assert isinstance(node, ast.If)
            changes[node] = []
    for node in sorted(changes, key=lambda n: n.lineno, reverse=True):
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = [indent + line for line in changes[node]]
    return "\n".join([*lines, "", "import sys  # noqa: E402", "", f"{THIS} = sys.modules[__name__]", ""])


def files(roots: Iterable[str], packages: Iterable[str], instead: Mapping[str, str]) -> dict[str, str]:
    """File names and contents of all exported modules."""
    ours = frozenset(packages)
    exported = closure(roots, ours, instead)
    return {f"{flat(module)}.py": rewritten(source, exported, ours) for module, source in exported.items()}
