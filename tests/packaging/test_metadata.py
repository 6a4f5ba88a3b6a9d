"""What an index shows of each package, and what a package says that it needs."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pin import BLOCK, OF_TORCH
from version import root_version, with_version

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
NAMES = {path.name.replace("-", "_") for path in PACKAGES}
BROUGHT = {
    "causal_conv1d": "compiled by its user beside mamba-ssm; no wheel fits every torch",
    "causal_conv1d_cuda": "as causal_conv1d",
    "mamba_ssm": "as causal_conv1d",
    "selective_scan_cuda": "as causal_conv1d",
    "cuda": "torch for CUDA brings cuda-bindings in the version that it needs",
    "triton": "torch brings the version that it needs",
    "llvmlite": "numba brings the version that it needs",
    "pydantic_core": "pydantic brings the version that it needs",
    "tqdm": "lmms-eval brings it, and calls the module that imports it",
    "datasets": "lmms-eval brings it, and calls the module that imports it",
    "pyarrow": "datasets brings it, for lmms-eval; vlm-train[parquet] asks for it",
    "_typeshed": "exists for type checkers only",
}
"""Imported without being required by name, and why."""


def _project(package: Path) -> dict:
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _requirements(package: Path) -> list[list[str]]:
    """Those of the package, and those of each of its extras."""
    project = _project(package)
    return [project["dependencies"], *project.get("optional-dependencies", {}).values()]


def _imported(package: Path) -> set[str]:
    """First names of all modules that the package imports from elsewhere, in functions too."""
    names = set()
    for path in (package / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - NAMES - set(BROUGHT)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_what_is_imported_is_required(package):
    required = {
        canonicalize_name(Requirement(text).name) for texts in _requirements(package) for text in texts
    }
    known = dict(packages_distributions()) | {
        "wandb": ["wandb"],
        "lmms_eval": ["lmms-eval"],
    }
    for module in sorted(_imported(package)):
        brings = {canonicalize_name(name) for name in known.get(module, [module])}
        assert brings & required, f"{module} is imported; {brings} is not required"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_a_requirement_appears_once(package):
    for texts in _requirements(package):
        names = [canonicalize_name(Requirement(text).name) for text in texts]
        assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_the_index_page(package):
    project = _project(package)
    minors = [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)]
    assert set(minors) <= set(project["classifiers"])
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project["keywords"]
    assert project["description"].endswith(".")
    assert all(url.startswith("https://") for url in project["urls"].values())
    assert (package / "src" / package.name.replace("-", "_") / "py.typed").is_file()


def test_one_version():
    for path in (ROOT / "pyproject.toml", *(package / "pyproject.toml" for package in PACKAGES)):
        text = path.read_text(encoding="utf-8")
        assert with_version(text, root_version()) == text, f"{path}: run python scripts/version.py"


def test_a_new_version_reaches_requirements():
    text = 'version = "0.1.0"\nrequires-python = ">=3.11"\n"vlm-core[hf]>=0.1,<0.2"\n"torch>=2.6"\n'
    assert with_version(text, "0.2.3") == (
        'version = "0.2.3"\nrequires-python = ">=3.11"\n"vlm-core[hf]>=0.2,<0.3"\n"torch>=2.6"\n'
    )


def _floors() -> dict[str, set[str]]:
    """name -> the ranges in which the packages ask for it."""
    floors: dict[str, set[str]] = {}
    for package in PACKAGES:
        for texts in _requirements(package):
            for requirement in map(Requirement, texts):
                floors.setdefault(requirement.name, set()).add(str(requirement.specifier))
    return floors


def test_packages_agree_on_floors():
    """A range that one package asks for and another does not would make the lower floor untrue."""
    shared = {name: ranges for name, ranges in _floors().items() if len(ranges) > 1}
    assert not shared


def _pins() -> list[Requirement]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert BLOCK.search(text)
    return [Requirement(line) for line in tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"]]


def test_pins_are_exact_and_fit_every_build_of_torch():
    for requirement in _pins():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), (
            "one version, and no local build as in +cpu"
        )
        assert requirement.url is None
        assert not OF_TORCH.fullmatch(requirement.name), "CUDA's libraries belong to a build of torch"


def test_what_the_root_asks_for_by_name_is_pinned():
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {canonicalize_name(Requirement(text).name) for text in root["dependency-groups"]["dev"]}
    wanted |= {
        "torch",
        "numpy",
        "timm",
        "transformers",
        "open-clip-torch",
        "tokenizers",
        "accelerate",
        "numba",
    }
    ours = {package.name for package in PACKAGES}
    assert wanted - ours <= {canonicalize_name(requirement.name) for requirement in _pins()}


def test_pins_lie_within_the_packages_ranges():
    pins = {requirement.name: requirement for requirement in _pins()}
    for name, ranges in _floors().items():
        for text in ranges if name in pins else ():
            version = str(pins[name].specifier).removeprefix("==")
            assert Requirement(f"{name}{text}").specifier.contains(version, prereleases=True), (name, text)


def test_the_bills_of_materials_are_current():
    assert (
        subprocess.run([sys.executable, ROOT / "scripts" / "sbom.py", "--check"], check=False).returncode == 0
    )
