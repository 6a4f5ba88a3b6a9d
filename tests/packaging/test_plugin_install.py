"""The example plugin, installed by pip alone, is found; without it nothing of it is left."""

from pathlib import Path

import pytest
from blocks import blocks
from processes import script, succeed

EXAMPLE = Path(__file__).parents[2] / "examples" / "vlm-connector-pool"
REST = """\
encoder: {type: timm, model: vit_tiny_patch16_224}
llm: {type: mamba, d_model: 32, n_layer: 1, vocab_size: 64}
"""
GET = "from vlm_core.plugins.registry import installed; print(installed().get('connector', 'pool')(stride=3).label())"


@pytest.mark.slow
def test_installed_by_pip_alone(python: Path, tmp_path: Path) -> None:
    succeed(python, "-m", "pip", "install", "--quiet", EXAMPLE)
    listing = script("vlm-assemble", "--list", python=python)
    assert listing.returncode == 0, listing.stderr
    (line,) = [line for line in _lines(listing.stdout) if "vlm-connector-pool" in line]
    assert line.startswith("connector pool vlm-connector-pool 0.1.0 ")
    assert succeed(python, "-c", GET) == "pool/3\n"
    spec = tmp_path / "pool.yaml"
    (part,) = [block.text for block in blocks(EXAMPLE / "README.md") if block.language == "yaml"]
    spec.write_text(f"{part}{REST}")
    checked = script("vlm-assemble", "--check", str(spec), python=python)
    assert "14×14 = 196 patches of width 192 → 49 visual tokens of width 32" in checked.stdout, checked.stderr
    # the package's own tests, as its author runs them; they build the module and use it
    succeed(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "tests")
    succeed(python, "-m", "pip", "uninstall", "--quiet", "--yes", "vlm-connector-pool")
    assert "vlm-connector-pool" not in script("vlm-assemble", "--list", python=python).stdout


def test_absent_here() -> None:
    listing = script("vlm-assemble", "--list").stdout
    assert "vlm-connectors 0.1.0" in listing
    assert "vlm-connector-pool" not in listing


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]
