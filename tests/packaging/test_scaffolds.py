"""`vlm-assemble --new-plugin`: what it writes works unchanged; what it can't write, it doesn't begin."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import run, script, succeed

from vlm_core.cli import assemble
from vlm_core.errors import UserError
from vlm_core.plugins.scaffold import SCAFFOLDS, new_plugin

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "vlm-connector-pool"
NAMES = {
    "encoder": "patches",
    "connector": "pool",
    "llm": "gru-2",
    "scan": "snake",
    "dataset": "captions",
    "benchmark": "colors",
}


def contents(folder: Path) -> dict[str, str]:
    """Every file by its path in the folder; what Python leaves behind when it runs is none of them."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and "__pycache__" not in f.parts)
    return {f.relative_to(folder).as_posix(): f.read_text(encoding="utf-8") for f in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scaffold of each kind."""
    folder = tmp_path_factory.mktemp("scaffolds")
    return {kind: new_plugin(kind, name, folder / f"vlm-{kind}-{name}") for kind, name in NAMES.items()}


def test_every_kind_is_tried() -> None:
    assert set(NAMES) == set(SCAFFOLDS)


def test_the_example_is_the_scaffold(written: dict[str, Path]) -> None:
    assert contents(written["connector"]) == contents(EXAMPLE)


def as_installed(packages: list[Path], folder: Path) -> dict[str, str]:
    """The environment in which these packages are found, as if pip had linked them."""
    for package in packages:
        name = package.name
        info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[vlm]\n{name} = {name.replace('-', '_')}.plugin\n")
    return {"PYTHONPATH": ":".join(map(str, [folder, *(package / "src" for package in packages)]))}


@pytest.mark.slow
def test_each_passes_its_own_tests(written: dict[str, Path], tmp_path: Path) -> None:
    """All in one process; warnings are errors, as here."""
    env, folders = as_installed(list(written.values()), tmp_path / "site"), list(written.values())
    pytest_ = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--rootdir",
        tmp_path,
    )
    done = run(*pytest_, "-rA", *(f / "tests" for f in folders), env=env | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    for kind, name in NAMES.items():
        file = f"test_{name.replace('-', '_')}.py"
        passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED") and file in line]
        assert len(passed) > 5, f"{kind}: {passed}"
        assert any("::Test" in line for line in passed), f"{kind} runs no suite"
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("command", [["check", "--ignore", "I"], ["format", "--check"]], ids=" ".join)
def test_they_are_in_our_own_style(written: dict[str, Path], command: list[str]) -> None:
    """Import order is left out: it depends on what is a package of one's own."""
    ruff = [str(Path(sys.executable).with_name("ruff")), *command, "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*ruff, *map(str, written.values())], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_each_passes_when_pip_installed_it(written: dict[str, Path], python: Path) -> None:
    """As their READMEs say, in an environment of their own; then nothing of them is left."""
    packages = list(written.values())
    # vlm-core itself is linked from the workspace; there is no index that has it
    succeed(python, "-m", "pip", "install", "--quiet", "--no-deps", *packages)
    listing = script("vlm-assemble", "--list", python=python)
    rows = [line.split()[:4] for line in listing.stdout.splitlines()]
    for kind, name in NAMES.items():
        assert [kind, name, f"vlm-{kind}-{name}", "0.1.0"] in rows
        succeed(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", written[kind] / "tests")
    names = [package.name for package in packages]
    succeed(python, "-m", "pip", "uninstall", "--quiet", "--yes", *names)
    assert not any(name in script("vlm-assemble", "--list", python=python).stdout for name in names)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "conector",
            "pool",
            "no scaffold for 'conector'; possible: benchmark, connector, dataset, encoder, llm, scan; did you mean",
        ),
        ("section", "pool", "no scaffold for 'section'"),
        ("connector", "My_Pool", "'My_Pool' can't be a component's name.*; how about 'my-pool'"),
        ("connector", "2d", "'2d' can't be a component's name.* characters$"),
        ("connector", "a--b", "how about 'a-b'"),
        ("connector", "../evil", "how about 'evil'"),
        ("connector", "", "'' can't be a component's name"),
        ("connector", "straße", "can't be a component's name"),
        ("connector", "a" * 41, "at most 40 characters$"),
        ("connector", "lambda", "'lambda' means something else"),
        ("connector", "plugin", "'plugin' means something else"),
        ("encoder", "encoder", "'encoder' means something else"),
        ("connector", "vss-l2", "connector 'vss-l2' exists already, in vlm-connectors"),
    ],
)
def test_what_cannot_be_is_refused(kind, name, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        new_plugin(kind, name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists already; name another folder"):
        new_plugin("scan", "zigzag", tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def test_a_failure_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full after the second file."""
    real, calls = Path.write_text, []

    def write(path: Path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(UserError, match="mine: cannot write: No space left on device"):
        new_plugin("scan", "zigzag", tmp_path / "mine")
    assert len(calls) == 3
    assert not list(tmp_path.iterdir())


def test_the_command_says_where_and_how_to_go_on(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vlm-assemble", "--new-plugin", "scan", "zigzag"])
    assert assemble.main() == 0
    out = capsys.readouterr().out
    assert "package: vlm-scan-zigzag" in out
    assert "pip install -e 'vlm-scan-zigzag[test]' && pytest vlm-scan-zigzag" in out
    assert (tmp_path / "vlm-scan-zigzag" / "tests" / "test_zigzag.py").is_file()
    assert assemble.main() == 2
    assert "vlm-scan-zigzag exists already" in capsys.readouterr().err
