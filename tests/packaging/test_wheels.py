"""Every package's wheel, alone and with all others in an empty environment: it imports and brings nothing unasked."""

import json
import os
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from processes import run, succeed
from uv import find_uv_bin

pytestmark = pytest.mark.slow

UV = find_uv_bin()
ROOT = Path(__file__).parents[2]
OURS = (
    "vlm-ssm",
    "vlm-core",
    "vlm-encoders",
    "vlm-connectors",
    "vlm-llms",
    "vlm-train",
    "vlm-bench",
    "vlm-serve",
)
HEAVY = {"timm", "open-clip-torch", "transformers", "accelerate", "matplotlib", "torchvision", "numba"}
BRINGS = {"vlm-train": {"accelerate", "matplotlib"}}
NEEDS = {"vlm-ssm": set(), "vlm-connectors": {"vlm-core", "vlm-ssm"}, "vlm-llms": {"vlm-core", "vlm-ssm"}}
SSM = """
import torch
from vlm_ssm import Mamba, add_rms_norm, causal_conv1d, selective_scan
x = torch.randn(1, 5, 8)
assert Mamba(8)(x).shape == x.shape
assert causal_conv1d(x.mT, torch.randn(8, 4), activation="silu").shape == (1, 8, 5)
B = torch.randn(1, 4, 5)
assert selective_scan(x.mT, x.mT.abs(), -torch.rand(8, 4), B, B).isfinite().all()
assert add_rms_norm(x, None, torch.ones(8), 1e-5)[1].shape == x.shape
"""
CONNECTOR = """
import torch
from vlm_core.plugins.registry import installed
connector = installed().get("connector", "vss-l2")().build(8, 16)
out = connector(torch.randn(1, 4, 4, 8))
assert out.shape == (1, connector.num_tokens(4, 4), 16), out.shape
assert out.isfinite().all()
"""


def project(name: str) -> dict:
    return tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())["project"]


def module(name: str) -> str:
    return name.replace("-", "_")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built here, or by scripts/release_check.py in the folder that it names."""
    if built := os.environ.get("VLM_WHEELS"):
        return Path(built)
    folder = tmp_path_factory.mktemp("wheels")
    for name in OURS:
        succeed(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT / "packages" / name)
    return folder


def wheel(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"{module(name)}-*.whl")
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """An environment without any package; its files are links into uv's cache and go when the test ends."""
    folder = tmp_path / "env"
    succeed(UV, "venv", "--quiet", "--python", sys.executable, folder)
    yield folder / "bin" / "python"
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", OURS)
def test_content(name: str, wheels: Path) -> None:
    with zipfile.ZipFile(wheel(wheels, name)) as archive:
        files = archive.namelist()
        (metadata,) = (f for f in files if f.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(metadata).decode())
    assert f"{module(name)}/py.typed" in files
    assert {f.split("/")[0].split("-")[0] for f in files} == {module(name)}
    needed = [r for r in headers.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert _normal(needed) == _normal(project(name)["dependencies"])


def _normal(requirements: list[str]) -> set[str]:
    """Build backends write the bounds of a requirement in an order of their own."""
    return {str(Requirement(text)) for text in requirements}


@pytest.mark.parametrize("name", OURS)
def test_alone_in_an_empty_environment(name: str, wheels: Path, empty: Path) -> None:
    install = (UV, "pip", "install", "--quiet", "--python", empty, "--find-links", wheels)
    succeed(*install, wheel(wheels, name))
    found = json.loads(succeed(UV, "pip", "list", "--python", empty, "--format", "json"))
    distributions = {entry["name"] for entry in found}
    assert distributions & set(OURS) == {name} | NEEDS.get(name, {"vlm-core"})
    assert distributions & HEAVY == BRINGS.get(name, set())
    succeed(empty, "-c", f"import {module(name)}")
    if name == "vlm-ssm":
        succeed(empty, "-c", SSM)
        assert "torch" in succeed(empty, "-m", "vlm_ssm")
        return
    for command in ("vlm-assemble", *project(name).get("scripts", {})):
        succeed(empty.with_name(command), "--help")
    listing = run(empty.with_name("vlm-assemble"), "--list")
    assert listing.returncode == 0, listing.stderr
    assert (name in listing.stdout) == ("entry-points" in project(name))
    if name == "vlm-connectors":
        succeed(empty, "-c", CONNECTOR)
    if name == "vlm-core":
        package = empty.parents[2] / "package"
        succeed(empty.with_name("vlm-assemble"), "--new-plugin", "connector", "pool", "--out", package)
        assert (package / "src" / "vlm_connector_pool" / "pool.py").is_file()


def test_all_together_in_an_empty_environment(wheels: Path, empty: Path) -> None:
    succeed(UV, "pip", "install", "--quiet", "--python", empty, *(wheel(wheels, name) for name in OURS))
    succeed(UV, "pip", "check", "--python", empty)
    listing = succeed(empty.with_name("vlm-assemble"), "--list")
    assert all(name in listing for name in OURS if "entry-points" in project(name))
    succeed(empty, "-c", CONNECTOR)
