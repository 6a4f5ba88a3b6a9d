"""Why backend `cuda` is missing, one reason each, and that Triton takes over: in fresh processes, on a GPU that is
made up.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

GPU = """
import sys, torch
torch.cuda.is_available = lambda: True
{change}
from vlm_ssm import backends
print(backends.missing("cuda"))
assert backends.default(torch.device("cuda")) == backends.chosen(torch.device("cuda"), "triton") == "triton"
try:
    backends.chosen(torch.device("cuda"), "cuda")
except backends.BackendError as error:
    assert str(error) == f"scan backend 'cuda' can't be used: {{backends.missing('cuda')}}"
"""
NO_LIBRARY = """
from cuda.bindings import nvrtc
def version():
    raise RuntimeError("Failed to dlopen libnvrtc.so")
nvrtc.nvrtcVersion = version
"""
NO_VERSION = """
from cuda.bindings import nvrtc
nvrtc.nvrtcVersion = lambda: (nvrtc.nvrtcResult.NVRTC_ERROR_INTERNAL_ERROR, 0, 0)
nvrtc.nvrtcVersion.__name__ = "nvrtcVersion"
"""
INSTALL = "pip install 'cuda-bindings[all]' brings it"


def reason(change: str) -> str:
    """`backends.missing("cuda")` in a process that starts with `change`; a warning would be an error."""
    code = GPU.format(change=change)
    command = [sys.executable, "-W", "error::UserWarning:vlm_ssm", "-c", code]
    env = {k: v for k, v in os.environ.items() if k not in ("VLM_SCAN_BACKEND", "TRITON_INTERPRET")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", [pytest.param("cuda", marks=pytest.mark.slow), "cuda.bindings"])
def test_without_bindings(module: str) -> None:
    """No package, or one that has a package `cuda` of its own."""
    text = reason(f"sys.modules[{module!r}] = None")
    assert module in text
    assert text.endswith("; pip install cuda-bindings triton brings cuda")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (NO_LIBRARY, "Failed to dlopen libnvrtc.so"),
        pytest.param(NO_VERSION, "nvrtcVersion: NVRTC_ERROR_INTERNAL_ERROR", marks=pytest.mark.slow),
    ],
    ids=["no library", "error code"],
)
def test_without_nvrtc(change: str, cause: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    assert reason(change) == f"NVRTC can't be used: {cause}; {INSTALL}"
