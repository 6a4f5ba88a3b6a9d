"""The convolution and a Mamba layer as one operation on the CUDA kernels, against the definitions."""

import pytest
import torch
from cases import assert_near
from conv_cases import Case as Window
from conv_cases import both as both_windows
from cuda_here import compiled, no_triton, on_the_gpu
from mixer_cases import Case as Layer
from mixer_cases import run

from vlm_ssm import boundaries_of
from vlm_ssm.cuda import conv, parameters
from vlm_ssm.registration import layer_parameters
from vlm_ssm.registration.inputs import ConvInputs
from vlm_ssm.torch.ops import after

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


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("kind", ["padding", "segments", "short", "no segments", "padding only"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_after_a_convolution(kind, state, dtype):
    """To the bit, as in plain torch; x is the half of another tensor, as in a layer."""
    length = 2 if kind == "short" else 19
    case = Window(3, length, 24, 4, state=state, segmented=True, seed=length)
    leaves, segments, _ = case.build(dtype)
    x = torch.cat([leaves["x"], leaves["x"]], dim=-1).detach()[..., :24]
    if kind == "padding only":
        segments = torch.full_like(segments, -1)
    elif kind == "padding":
        segments = segments.clamp(max=0)
    marks = None if kind == "no segments" else boundaries_of(segments)
    past = leaves["state"].detach() if state else None
    taps = layer_parameters.prepare(torch.zeros(24, 16), leaves["weight"].detach().view(24, 1, 4), None)[1]
    found = conv._after(ConvInputs(x, taps, None, past, *(marks or ())))
    assert torch.equal(found, after(x[:, :, 0], past, marks, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_that_kernels_read(dtype, bias):
    given = (
        torch.randn(24, 16),
        torch.randn(24, 1, 4, dtype=dtype),
        torch.randn(24, dtype=dtype) if bias else None,
    )
    for found, wanted in zip(parameters.prepare(*given), layer_parameters.prepare(*given), strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
