"""`# fmt: skip` ends a table of numbers or of short literals, which the formatter would make a page of single words."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("packages", "scripts", "examples", "perf", "tests")
EXEMPT = ROOT / "packages/vlm-ssm/src/vlm_ssm/triton"
"""Triton 3.6 compiles no named tuples: kernels take long plain argument lists, one line for each group."""
COMMENT = "# fmt: skip"
CELLS, WIDTH = 12, 24
"""A table has as many cells at least, and none is written with more characters."""
ROWS = ast.List | ast.Tuple | ast.Set


def _number(node):
    """A number, None or a boolean; an expression of numbers, such as `2**31 - 1` or `float("nan")`."""
    if isinstance(node, ast.UnaryOp):
        return _number(node.operand)
    if isinstance(node, ast.BinOp):
        return _number(node.left) and _number(node.right)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "float"
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float | None)


def _literal(node):
    return _number(node) or (isinstance(node, ast.Constant) and len(ast.unparse(node)) <= WIDTH)


def _cells(node):
    """What a row holds: the elements of a display, the arguments of a call, the numbers of a dict."""
    parts = [node]
    if isinstance(node, ROWS):
        parts = node.elts
    elif isinstance(node, ast.Dict) and all(map(_number, node.values)):
        parts = node.values
    elif isinstance(node, ast.Call) and not _number(node):
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
    return [node] if parts == [node] else [cell for part in parts for cell in _cells(part)]


def is_table(node):
    """A display of `CELLS` or more short literals and names, of which half are numbers or all are literals."""
    rows = node.values if isinstance(node, ast.Dict) else node.elts
    if isinstance(node, ast.Dict) and not all(_number(row) or isinstance(row, ROWS) for row in rows):
        return False
    cells = [cell for row in rows for cell in _cells(row)]
    numbers, literals = sum(map(_number, cells)), sum(map(_literal, cells))
    names = sum(isinstance(cell, ast.Name | ast.Attribute) for cell in cells)
    complete = len(cells) >= CELLS and literals + names == len(cells)
    return complete and (2 * numbers >= len(cells) or (literals == len(cells) and isinstance(node, ROWS)))


def literal_at(tree, line):
    """The first display that ends on a line or on the one before it, and spans several lines."""
    displays = (node for node in ast.walk(tree) if isinstance(node, ROWS | ast.Dict))
    ends_here = [n for n in displays if n.end_lineno in (line, line - 1) and n.lineno != n.end_lineno]
    return min(ends_here, key=lambda node: (node.lineno, node.col_offset), default=None)


def misplaced(text):
    """The lines whose comment ends no table."""
    tree = ast.parse(text)
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.rstrip().endswith(COMMENT)]
    tables = [literal_at(tree, line) for line in lines]
    return [line for line, table in zip(lines, tables, strict=True) if table is None or not is_table(table)]


@pytest.mark.parametrize("tree", TREES)
def test_only_tables_are_laid_out_by_hand(tree):
    paths = (path for path in (ROOT / tree).rglob("*.py") if EXEMPT not in path.parents)
    files = [path for path in paths if COMMENT in path.read_text(encoding="utf-8")]
    places = [f"{path}:{n}" for path in files for n in misplaced(path.read_text(encoding="utf-8"))]
    assert not places


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = [\n(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, -12),\n]", []),
        ("f([\nCase(1, 2, 3, k=4), Case(5, 6, 7, k=8), Case(1, 2, 3, k=NAME),\n])", []),
        ("x = {\n'a': (1, 2, 3, 4), 'b': (1, 2, 3, 4), 'c': (5, 6, 7, 2**31),\n}", []),
        ("x = [\n'a', 'b', 'c', 'd', 'e', 'f', 'g',\n'h', 'i', 'j', 'k', 'l']", []),
        ("x = [\n1, 2, 3]", [2]),
        ("x = {\n'a': 1, 'b': 'text', 'c': [], 'd': None}", [2]),
        ("x = [\n" + "'a message that a test looks for', 1, " * 9 + "\n]", [3]),
        ("x = [\n" + "(lambda: 1, 2, 3), " * 9 + "\n]", [3]),
        ("def f(\na=1, b=2):", [2]),
        ("f(1,\n2)", [2]),
    ],
)
def test_tables_are_told_from_other_code(code, expected):
    body = f"{code}  {COMMENT}\n" + ("    pass\n" if code.endswith(":") else "")
    assert misplaced(body) == expected
