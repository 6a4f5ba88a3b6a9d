"""The newest versions of everything resolve; the lowest declared ones resolve, import and compute."""

import logging
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from processes import run, succeed
from uv import find_uv_bin

from pin import without_pins

pytestmark = pytest.mark.slow

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
UV = find_uv_bin()
PACKAGES = sorted((ROOT / "packages").glob("*/pyproject.toml"))
EXTRAS = [
    part
    for name in ("timm", "open-clip", "transformers", "hf", "cpu", "testing")
    for part in ("--extra", name)
]
CORE_OF_THE_SUITE = (
    "tests/ssm/test_mixer.py",
    "tests/ssm/test_scan.py",
    "tests/llms/test_mamba.py",
    "tests/core/test_generate.py",
    "tests/core/test_template.py",
)
IMPORT_ALL = """
import importlib, pkgutil, sys
failed = {}
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        if found.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:  # an extra that is not installed here
            if error.name.split(".")[0] not in {"pyarrow", "lmms_eval", "causal_conv1d", "causal_conv1d_cuda"}:
                failed[found.name] = str(error)
        except Exception as error:
            failed[found.name] = repr(error)
assert not failed, failed
"""


def _locked(folder: Path) -> dict[str, set[str]]:
    packages = tomllib.loads((folder / "uv.lock").read_text(encoding="utf-8"))["package"]
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(package["name"], set()).add(package["version"])
    return versions


def test_the_newest_of_everything_resolves(tmp_path: Path) -> None:
    """Without pins; `--log-cli-level=INFO` lists what is newer than its pin. Nothing is installed."""
    for path in (ROOT / "pyproject.toml", *PACKAGES, *ROOT.glob("examples/*/pyproject.toml")):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(without_pins(path.read_text(encoding="utf-8")), encoding="utf-8")
    succeed(UV, "lock", "--quiet", "--upgrade", "--prerelease", "disallow", "--directory", tmp_path)
    newest = _locked(tmp_path)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"]]
    assert pins
    for pin in pins:
        versions = newest.get(pin.name, set())
        if str(pin.specifier).removeprefix("==") not in versions:
            LOG.info(
                "%s%s is pinned, the newest is %s", pin.name, pin.specifier, sorted(versions) or "not needed"
            )
    assert newest["torch"], "the resolution holds what the packages need"


def _lowest(folder: Path) -> Path:
    """A requirements file of the lowest versions that the packages declare."""
    target = folder / "lowest.txt"
    compile = ("pip", "compile", "--quiet", "--directory", folder, "--resolution", "lowest-direct")
    where = ("--python", sys.executable, "--output-file", target)
    succeed(UV, *compile, *where, *EXTRAS, *PACKAGES)
    lines = target.read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(line for line in lines if not line.startswith("-e ")), encoding="utf-8")
    return target


def test_the_lowest_declared_versions_work(tmp_path: Path) -> None:
    requirements = _lowest(tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    succeed(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    install = (UV, "pip", "install", "--quiet", "--directory", tmp_path, "--python", python)
    succeed(*install, "-r", requirements, "pytest", "pytest-xdist", "hypothesis")
    succeed(*install, "--no-deps", *(part for path in PACKAGES for part in ("-e", path.parent)))
    succeed(python, "-c", IMPORT_ALL, *(path.parent.name.replace("-", "_") for path in PACKAGES))
    tests = [ROOT / path for path in CORE_OF_THE_SUITE]
    done = run(python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", ROOT, *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(tmp_path / "env")
