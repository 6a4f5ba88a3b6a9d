"""Libraries do nothing unasked while they are imported."""

import os
import subprocess
import sys

import pytest

ASKED = """
import sys, types
fake = types.ModuleType("kernels")
def get_kernel(*names, **options): sys.exit("the hub was asked")
fake.get_kernel = get_kernel
sys.modules["kernels"] = fake
from vlm_core.runtime.verbosity import without_hub_kernels
with without_hub_kernels():
    {}
assert sys.modules["kernels"] is fake
"""


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import bitsandbytes", "import peft.tuners.lora"])
def test_no_import_asks_a_hub_for_kernels_or_warns_that_it_cannot(imports):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASKED.format(imports)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "kernels-community" not in done.stderr
