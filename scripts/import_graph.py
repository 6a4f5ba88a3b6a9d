"""Draw docs/img/architecture.svg from the imports of the packages: `python scripts/import_graph.py`.

It also writes the table of folders in docs/architecture.md, a line each from the `__init__`'s first sentence.
`--check` compares the files with the code and writes nothing.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import networkx as nx

from architecture_svg import draw

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "img" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
TABLE = re.compile(r"(<!-- rooms: .* -->\n).*(<!-- end of rooms -->)", re.DOTALL)


def packages() -> list[str]:
    """The import name of every package, in the order of the layers that import-linter checks."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    return [name.strip() for layer in layers for name in layer.split("|")]


def module_graph() -> nx.DiGraph:
    """module -> module that it imports; imports in functions and under `TYPE_CHECKING` are counted."""
    imports = grimp.build_graph(*packages(), cache_dir=None, exclude_type_checking_imports=False)
    graph = nx.DiGraph()
    for module in sorted(imports.modules):
        graph.add_node(module)
        graph.add_edges_from((module, target) for target in imports.find_modules_directly_imported_by(module))
    return graph


def _imported(path: Path) -> Iterator[str]:
    """Dotted names that a file may import: `from a import b` yields `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _search_paths() -> list[Path]:
    """Where tests find helpers, and measurements their library."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = settings["tool"]["pytest"]["ini_options"]["pythonpath"]
    return list(dict.fromkeys([ROOT, ROOT / "perf", *(ROOT / path for path in named)]))


def script_graph(*trees: str) -> nx.DiGraph:
    """file -> file that it imports, for the files of these folders, which are no packages."""
    files = {
        path for tree in trees for path in (ROOT / tree).rglob("*.py") if "__pycache__" not in path.parts
    }
    nodes = {str(path): path.relative_to(ROOT).as_posix() for path in sorted(files)}
    places = _search_paths()
    graph = nx.DiGraph()
    graph.add_nodes_from(sorted(nodes.values()))
    for path in sorted(files):
        for name in set(_imported(path)):
            end = f"{os.sep}{name.replace('.', os.sep)}.py"
            targets = [f"{place}{end}" for place in (path.parent, *places)]
            for target in [t for t in targets if t in nodes][:1]:
                graph.add_edge(nodes[str(path)], nodes[target])
    return graph


@cache
def folders() -> set[str]:
    """The rooms that are folders, not single modules."""
    inits = ROOT.glob("packages/*/src/*/*/__init__.py")
    return {f"{path.parts[-3]}.{path.parts[-2]}" for path in inits}


def room_of(module: str) -> str:
    """`vlm_train.data.llava` is in `vlm_train.data`; a module beside the rooms stands for itself."""
    package, *rest = module.split(".")
    if rest == ["__main__"] and f"{package}.cli" in folders():
        return f"{package}.cli"
    return ".".join([package, *rest[:1]])


def quotient(graph: nx.DiGraph) -> nx.DiGraph:
    """room -> room that one of its modules imports."""
    rooms = nx.DiGraph()
    rooms.add_nodes_from(sorted({room_of(module) for module in graph}))
    pairs = ((room_of(importer), room_of(imported)) for importer, imported in graph.edges)
    rooms.add_edges_from(sorted({pair for pair in pairs if pair[0] != pair[1]}))
    return rooms


def cycles(graph: nx.DiGraph) -> list[list[str]]:
    """The groups of nodes that reach one another."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1)


def rooms_table() -> str:
    """Markdown: a line a folder, in the order of the packages."""
    lines = ["| folder | what it is for |", "|---|---|"]
    for package in packages():
        for path in sorted(ROOT.glob(f"packages/*/src/{package}/*/__init__.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            lines.append(
                f"| `{package}/{path.parent.name}` | {docstring.split(chr(10))[0].replace('|', ' ')} |"
            )
    return "\n".join(lines) + "\n"


def outputs() -> dict[Path, str]:
    """File -> what it should hold."""
    page = PAGE.read_text(encoding="utf-8")
    text = TABLE.sub(lambda match: f"{match[1]}\n{rooms_table()}\n{match[2]}", page)
    return {PICTURE: draw(quotient(module_graph()), packages(), folders()), PAGE: text}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    stale = {
        path: text
        for path, text in outputs().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        if check:
            print(
                f"{path.relative_to(ROOT)}: out of date: run python scripts/import_graph.py", file=sys.stderr
            )
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
