"""The shape of the tree: no import cycle, no crowded folder, a current picture, no file named by a stale path."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from import_graph import cycles, module_graph, quotient, script_graph

ROOT = Path(__file__).parents[1]
MODULES_PER_FOLDER = 12
TREES = ("packages", "examples", "perf", "scripts", "tests")


@pytest.fixture(scope="module")
def modules():
    return module_graph()


def test_the_graph_holds_every_module(modules):
    """A graph that misses modules would prove nothing."""
    files = [p for p in ROOT.glob("packages/*/src/**/*.py") if "__pycache__" not in p.parts]
    assert len(modules) == len(files)
    assert modules.has_edge("vlm_core.plugins.hooks", "vlm_core.plugins.config"), (
        "imports for types are counted"
    )
    assert modules.has_edge("vlm_core.diagnose.doctor", "vlm_ssm.doctor"), "imports in functions are counted"


def test_no_import_cycle_between_modules(modules):
    assert cycles(modules) == []


@pytest.fixture(scope="module")
def scripts():
    return script_graph("perf", "tests")


def test_the_graph_of_scripts_holds_every_script(scripts):
    files = [
        p for tree in ("perf", "tests") for p in (ROOT / tree).rglob("*.py") if "__pycache__" not in p.parts
    ]
    assert len(scripts) == len(files)
    assert scripts.has_edge("perf/cpu/scan.py", "perf/lib/common.py"), "by its dotted name"
    assert scripts.has_edge("perf/fuzz.py", "perf/fuzzing/runner.py"), "from its own folder"
    assert scripts.has_edge("tests/ssm/ops/test_scan.py", "tests/ssm/helpers/cases.py"), (
        "through pytest's pythonpath"
    )


def test_no_import_cycle_between_scripts(scripts):
    assert cycles(scripts) == []


def test_no_test_imports_another_test(scripts):
    """What two test modules need is in a helper: a test module may be moved or run alone."""
    assert not [(a, b) for a, b in scripts.edges if Path(b).name.startswith(("test_", "conftest"))]


def test_no_import_cycle_between_rooms(modules):
    assert cycles(quotient(modules)) == []


def test_a_cycle_would_be_found(modules):
    """`vlm_core.errors` is imported nearly everywhere: any arrow from it closes a circle."""
    closed = modules.copy()
    closed.add_edge("vlm_core.errors", "vlm_train.engine.trainer")
    assert any("vlm_train.engine.trainer" in group for group in cycles(closed))


def folders():
    """Every folder of Python modules in the packages, the tests and the measurements."""
    paths = {path.parent for tree in ("packages", "perf", "tests") for path in (ROOT / tree).rglob("*.py")}
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts)


def _modules_of(folder):
    return [p.name for p in (ROOT / folder).glob("*.py") if p.name not in ("__init__.py", "conftest.py")]


def test_a_folder_holds_at_most_a_dozen_modules():
    counts = {folder: len(_modules_of(folder)) for folder in folders()}
    assert counts
    assert not {folder: count for folder, count in counts.items() if count > MODULES_PER_FOLDER}


def test_a_room_says_what_it_is_for():
    """Its docstring begins with a sentence, which stands in docs/architecture.md, too."""
    files = sorted(ROOT.glob("packages/*/src/**/__init__.py"))
    texts = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    assert texts
    assert not [path for path, text in texts.items() if not text.partition("\n")[0].endswith(".")]


def _imports_on_load(tree):
    """Modules named by imports that run when the module is loaded: in no function, under no TYPE_CHECKING."""
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        waiting.extend(ast.iter_child_nodes(node))


def test_loading_the_core_needs_no_state_space_library():
    files = sorted((ROOT / "packages/vlm-core/src").rglob("*.py"))
    assert files
    for path in files:
        loaded = list(_imports_on_load(ast.parse(path.read_text(encoding="utf-8"))))
        assert not [name for name in loaded if name.split(".")[0] == "vlm_ssm"], path


def test_the_picture_is_drawn_from_these_imports():
    script = [sys.executable, ROOT / "scripts" / "import_graph.py", "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pages():
    return sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md")})


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_named_in_pages_exist(page):
    """A page that names a file of packages/, perf/, scripts/, examples/ or docs/ moves with it."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])((?:packages|perf|scripts|examples|docs)/[\w./-]+\.\w+)", text)
    missing = [name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_select_tests_by_name(page):
    """Test files move: a page writes `pytest -k NAME`, and that name selects something."""
    text = page.read_text(encoding="utf-8")
    plugins = {path.name for path in ROOT.glob("examples/*/tests/*.py")}  # a plugin's README names its own
    files = {Path(name).name for name in re.findall(r"[\w/*]*\btest_[\w*]+\.py", text)}
    assert not files - plugins
    for name in re.findall(r"pytest [^`\n]*-k (\w+)", text):
        assert any(name in path.stem for path in (ROOT / "tests").rglob("test_*.py")), name


def test_the_map_names_what_exists():
    """`vlm_core/model.py`, `vlm_train/engine`: the walks and answers of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(vlm_\w+/[\w/.]+)`", text))
    missing = {name for name in named if not list(ROOT.glob(f"packages/*/src/{name}"))}
    assert named
    assert not missing


OURS = re.compile(r"vlm_(?:ssm|core|encoders|connectors|llms|train|bench)(?:\.\w+){2,}")


def _exists(name, modules):
    """`package.room.module.attribute`: all but the last one or two words are folders or modules."""
    parts = name.split(".")
    return any(".".join(parts[: len(parts) - cut]) in modules for cut in (0, 1, 2) if len(parts) - cut > 1)


def _texts(path):
    """Every string of a module that is a dotted name of ours, with its line."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)) if re.search(r"[\"']vlm_", text) else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OURS.fullmatch(node.value):
            yield node.lineno, node.value


def test_modules_named_in_texts_exist(modules):
    """What is patched or imported by a dotted name moves with its module."""
    files = sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py"))
    texts = [(path.relative_to(ROOT), line, name) for path in files for line, name in _texts(path)]
    assert texts
    assert not [f"{path}:{line}: {name}" for path, line, name in texts if not _exists(name, modules)]


def test_names_of_test_files_are_unique():
    """pytest collects no two files of one name from folders without packages; helpers are imported by their names."""
    files = [p.name for p in (ROOT / "tests").rglob("*.py") if p.name not in ("conftest.py", "__init__.py")]
    assert sorted(files) == sorted(set(files))
