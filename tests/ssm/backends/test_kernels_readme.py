"""The README of the numba kernels quotes `norm.py` as it is and names what exists."""

import re
from pathlib import Path

KERNELS = Path(__file__).parents[3] / "packages/vlm-ssm/src/vlm_ssm/numba/kernels"
TEXT = (KERNELS / "README.md").read_text(encoding="utf-8")


def test_the_quoted_kernel_is_the_kernel():
    source = (KERNELS / "norm.py").read_text(encoding="utf-8")
    quoted = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(quoted) == 4
    assert all(block in source for block in quoted)
    assert "ROWS = 16 " in source


def test_it_names_every_file_and_only_functions_that_exist():
    sources = {p.name: p.read_text(encoding="utf-8") for p in KERNELS.glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", TEXT)) == set(sources) - {"__init__.py"}
    last = TEXT.partition("## What the scan adds")[2]
    named = set(re.findall(r"`(\w+)`", last)) - {"fma"}
    assert named == {"pack_state", "load_tile", "steps", "store_tile", "unpack_state", "block_of"}
    assert all(f"\ndef {name}(" in sources["scan_forward.py"] for name in named)
