"""vlm-train declares every library that it imports, also those that another dependency brings."""

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import vlm_train

SOURCE = Path(vlm_train.__file__).parent
NAMES = {"PIL": "pillow", "yaml": "pyyaml"}


def imported():
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                yield (node.module or "").partition(".")[0]
            elif isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)


def test_direct_imports_are_declared():
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = {re.split(r"[\[<>=]", text)[0] for text in chain(project["dependencies"], *extras)}
    foreign = set(imported()) - set(sys.stdlib_module_names)
    names = {NAMES.get(name, name).replace("_", "-") for name in foreign}
    assert names - declared - {"vlm-train"} == set()
    assert {"torch", "numpy", "pydantic", "vlm-core"} <= names
