"""The convolution and a Mamba layer as one operation on the CUDA kernels, against the definitions."""

import pytest
import torch
from cases import assert_near
from conv_cases import Case as Window
from conv_cases import both as both_windows
from cuda_here import compiled, no_triton, on_the_gpu
from mixer_cases import Case as Layer
from mixer_cases import run

__all__ = ["compiled", "no_triton", "on_the_gpu"]


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_layer_as_one_operation(norm, segmented, monkeypatch):
    """Against separate operations; weights' gradients, summed in fp32, differ by the rounding of theirs to bf16."""
    monkeypatch.setenv("VLM_SCAN_BACKEND", "cuda")
    case = Layer(2, 77, segmented=segmented, state=True, norm=norm, width=32, states=16)
    found, again, wanted = (run(case, case.layer(), fused, autocast=True) for fused in (True, True, False))
    assert_near(found, wanted, 4e-3)
    assert all(torch.equal(found[name], again[name]) for name in found)


WINDOWS = [
    Window(2, 9, 8, 4), Window(2, 109, 136, 4, state=True), Window(1, 3, 16, 3, state=True), Window(2, 7, 8, 2, K=3),
    Window(2, 70, 8, 3, K=2, own_rows=True, own_weights=True), Window(2, 70, 8, 4, K=2, own_weights=True),
    Window(2, 90, 8, 4, state=True, segmented=True), Window(2, 1, 8, 4, state=True),
    Window(2, 150, 72, 4, segmented=True), Window(2, 333, 72, 4, K=4),
]  # fmt: skip


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_conv(case):
    assert_near(*both_windows("cuda", *case.build()), 2e-5)
    found, wanted = both_windows("cuda", *case.build(torch.bfloat16))
    assert_near(found, wanted, 6e-3)
