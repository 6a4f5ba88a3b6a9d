"""Where the tests of Triton's kernels run: on a GPU, or, with TRITON_INTERPRET=1, in its interpreter."""

import pytest
import torch

from vlm_ssm import backends

if backends.missing("triton"):
    pytest.skip("without a GPU test_interpreter.py runs these", allow_module_level=True)

from vlm_ssm.triton import conv, scan

CUDA = not backends.interpreted()
ROUNDING = 3e-3 if CUDA else 6e-3
"""Relative error of what is rounded to bf16; the interpreter cuts digits off instead."""

if not CUDA:
    from interpreter import speed_up

    speed_up()


@pytest.fixture(autouse=True)
def place(monkeypatch):
    """Everything on the GPU; in the interpreter tiles of 2 positions, chunks of 4."""
    if CUDA:
        with torch.device("cuda"):
            yield
        return
    monkeypatch.setattr(scan, "ROWS", 2)
    monkeypatch.setattr(scan, "CHUNK", 4)
    monkeypatch.setattr(conv, "ROWS", 4)
    yield
