"""scripts/pin.py on a project of its own, whose packages are in a local folder."""

import re
import zipfile
from pathlib import Path

import pytest

import pin

PROJECT = """[project]
name = "root"
version = "1"
requires-python = ">=3.11"
dependencies = ["algebra", "floats"]

[tool.uv]
package = false
constraint-dependencies = [
    "floats==1.3",
]
"""


def wheel(folder: Path, name: str, version: str, *requirements: str) -> None:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {text}" for text in requirements]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(*options)` gives the pins of the project afterwards."""
    for version in ("1.3", "1.4"):
        wheel(tmp_path, "floats", version)
    path = tmp_path / "pyproject.toml"
    path.write_text(PROJECT)
    monkeypatch.setattr(pin, "ROOT", tmp_path)
    monkeypatch.setattr(pin, "PYPROJECT", path)
    for name, value in {"FIND_LINKS": str(tmp_path), "NO_INDEX": "1", "OFFLINE": "1"}.items():
        monkeypatch.setenv(f"UV_{name}", value)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))

    def run(*options: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["pin.py", *options])
        assert pin.main() == 0
        return re.findall(r'^    "(\S+)",$', path.read_text(), re.MULTILINE)

    return run


def test_no_prerelease_where_a_final_release_satisfies(run, tmp_path, capsys):
    """`algebra` 1.0 takes no newer `floats` than 1.3; its pre-release takes any."""
    wheel(tmp_path, "algebra", "1.0", "floats<1.4")
    wheel(tmp_path, "algebra", "1.0rc1", "floats")
    assert run() == run("--upgrade") == run("--upgrade", "algebra") == ["algebra==1.0", "floats==1.3"]
    assert not capsys.readouterr().err


def test_a_pin_that_excludes_the_final_release_is_an_error(run, tmp_path):
    wheel(tmp_path, "algebra", "1.0", "floats<1.4")
    wheel(tmp_path, "algebra", "1.0rc1", "floats")
    path = tmp_path / "pyproject.toml"
    path.write_text(text := PROJECT.replace("floats==1.3", "floats==1.4"))
    with pytest.raises(SystemExit, match=r"algebra==1\.0rc1: a pre-release; the pins exclude"):
        run()
    assert path.read_text() == text
    assert run("--upgrade", "floats") == ["algebra==1.0", "floats==1.3"]


def test_a_prerelease_where_nothing_else_satisfies_is_reported(run, tmp_path, capsys):
    wheel(tmp_path, "algebra", "1.0rc1", "floats")
    assert run("--upgrade") == ["algebra==1.0rc1", "floats==1.4"]
    assert "algebra==1.0rc1: a pre-release" in capsys.readouterr().err
    assert run() == ["algebra==1.0rc1", "floats==1.4"]


def test_upgrade_of_one_package_leaves_the_others(run, tmp_path):
    wheel(tmp_path, "algebra", "1.0")
    assert run() == ["algebra==1.0", "floats==1.3"]
    wheel(tmp_path, "algebra", "1.1")
    assert run("--upgrade", "floats") == ["algebra==1.0", "floats==1.4"]
    assert run("--upgrade") == ["algebra==1.1", "floats==1.4"]


def test_upgrade_of_an_unknown_package_changes_nothing(run, tmp_path, monkeypatch):
    wheel(tmp_path, "algebra", "1.0")
    with pytest.raises(SystemExit, match="no pin of numbers"):
        run("--upgrade", "numbers")
    assert (tmp_path / "pyproject.toml").read_text() == PROJECT


def test_a_failed_resolution_changes_nothing(run, tmp_path):
    with pytest.raises(SystemExit, match="algebra"):
        run("--upgrade")
    assert (tmp_path / "pyproject.toml").read_text() == PROJECT


def test_no_version_of_the_workspace_is_a_prerelease():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert pin.prereleases(re.findall(r'^    "(\S+==[^"]+)",$', text, re.MULTILINE)) == []
    assert pin.prereleases(["a==1.0rc1", "b==1.0", "c==2.dev1 ; python_version < '3.12'"]) == [
        "a==1.0rc1",
        "c==2.dev1 ; python_version < '3.12'",
    ]
