"""The tests of Triton's kernels in its interpreter, which must be switched on before Triton is imported."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the tests run on the GPU itself")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no build for this system")
def test_kernels_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        HERE / "test_triton.py",
        HERE / "test_triton_layers.py",
    ]
    # until Triton settles whether products and sums may be fused, it warns unless told
    own = {
        "TRITON_INTERPRET": "1",
        "TRITON_DEFAULT_FP_FUSION": "1",
        "VLM_SCAN_BACKEND": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [str(c) for c in command], env=os.environ | own, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None, done.stdout[-2000:]
    assert int(found[1]) >= 50
