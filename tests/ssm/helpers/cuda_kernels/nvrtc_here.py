"""Imported by tests that compile CUDA sources, with or without a GPU: skips them where NVRTC is missing."""

import pytest

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings.nvrtc")

from vlm_ssm.cuda import compiler

try:
    compiler.version()
except (compiler.CompilationError, OSError, RuntimeError):
    pytest.skip("no NVRTC on this system", allow_module_level=True)
