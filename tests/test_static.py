"""Lint, format, types and the direction of imports are tests like any other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "pyright": ["pyright"],
    "import-linter": ["lint-imports"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_clean(name):
    tool, *arguments = COMMANDS[name]
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def sources():
    return sorted(p for folder in ("packages", "examples", "perf") for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    """At most 300 lines a file, 50 a function: beyond that the design wants another look."""
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


OWN_FILES = {
    "distribution.py", "doctor.py", "jit.py", "code_export.py", "scaffold.py", "folder.py",
    "rowindex.py", "tar_index.py", "rundir.py", "report.py", "checkpoint.py", "sweep.py", "trackers.py",
    "prepare_run_dir.py", "run_inputs.py", "exit_message.py", "store.py", "system_faults.py", "untrusted_files.py",
    "launch.py", "peak_rss.py", "cpu_name.py",
}  # fmt: skip
"""Modules that read text which this project wrote itself, or which the system did."""


@pytest.mark.parametrize(
    "path", [p for p in sources() if "src" in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_text_of_others_is_read_by_one_function(path):
    """`vlm_core.io.files.read_text` skips byte order marks and knows every line end; `Path.read_text` does neither."""
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "read_text"
    ]
    assert not calls or path.name in OWN_FILES, calls
