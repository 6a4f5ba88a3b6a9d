"""Lint, format, types and the direction of imports are tests like any other."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "pyright": ["pyright", "packages", "examples", "scripts"],
    "pyright of tests": ["pyright", "perf", "tests"],
    "import-linter": ["lint-imports"],
}
SLOW = ("pyright of tests",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COMMANDS]
)
def test_clean(name):
    tool, *arguments = COMMANDS[name]
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_checks_every_folder_of_its_settings():
    """In two runs: the types of tests and measurements take as long as those of all packages."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    checked = [name for command in COMMANDS.values() if command[0] == "pyright" for name in command[1:]]
    assert sorted(checked) == sorted(settings["include"])


def sources():
    return sorted(p for folder in ("packages", "examples", "perf") for p in (ROOT / folder).rglob("*.py"))


def _too_long(path):
    """The file if it has more than 300 lines, and its functions of more than 50."""
    text = path.read_text()
    lines = len(text.splitlines())
    if lines > 300:
        yield f"{path.relative_to(ROOT)}: {lines} lines"
    for node in ast.walk(ast.parse(text)) if lines > 50 else ():
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"


def test_files_and_functions_stay_small():
    """At most 300 lines a file, 50 a function: beyond that the design wants another look."""
    assert not [place for path in sources() for place in _too_long(path)]


OWN_FILES = {
    "distribution.py", "doctor.py", "jit.py", "code_export.py", "scaffold.py", "folder.py",
    "rowindex.py", "tar_index.py", "rundir.py", "report.py", "checkpoint.py", "sweep.py", "trackers.py",
    "prepare_run_dir.py", "run_inputs.py", "exit_message.py", "store.py", "system_faults.py", "untrusted_files.py",
    "launch.py", "peak_rss.py", "cpu_name.py",
}  # fmt: skip
"""Modules that read text which this project wrote itself, or which the system did."""


def test_text_of_others_is_read_by_one_function():
    """`vlm_core.io.files.read_text` skips byte order marks and knows every line end; `Path.read_text` does neither."""
    files = [path for path in sources() if "src" in path.parts and path.name not in OWN_FILES]
    texts = {path: text for path in files if "read_text" in (text := path.read_text())}
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "read_text"
    ]
    assert len(files) > len(texts) > 0
    assert not calls
