"""What the CUDA kernels don't cover, and GPUs that they don't run on, go to Triton's kernels."""

from contextlib import nullcontext

import nvrtc_here  # noqa: F401  skips where NVRTC is missing
import pytest
import torch
from launch_cases import BF16, scan_case
from launch_recorder import launches

from vlm_ssm import MambaMixer, cast_parameters
from vlm_ssm.cuda import compiler, conv, launch, scan
from vlm_ssm.cuda.decoding import step as decode
from vlm_ssm.mamba_layer import MambaStack
from vlm_ssm.registration.inputs import ConvInputs
from vlm_ssm.triton import conv as triton_conv
from vlm_ssm.triton import decode as triton_decode
from vlm_ssm.triton import scan as triton_scan

__all__ = ["launches"]


def test_more_than_a_grid_has_goes_to_triton():
    """A grid has 65535 blocks in its second and third dimension."""
    order = torch.empty(2, 4, dtype=torch.int64)
    few, many, long = (
        torch.empty(shape, device="meta") for shape in ((9, 4, 1, 8), (40000, 4, 1, 8), (1, 600000, 1, 8))
    )
    weight = torch.empty(1, 4, 8, device="meta")
    assert conv.why_not_covered(ConvInputs(few, weight, scan_order=order)) is None
    assert conv.why_not_covered(ConvInputs(many, weight)) is None
    assert "80000 sequences" in (conv.why_not_covered(ConvInputs(many, weight, scan_order=order)) or "")
    assert "600000 positions" in (conv.why_not_covered(ConvInputs(long, weight)) or "")


@torch.no_grad()
def test_tokens_that_are_not_covered_go_to_triton(launches, monkeypatch):
    """By type, batch, state size and width; the reason says which."""
    went = []
    monkeypatch.setattr(triton_decode, "fused_decode_step", lambda *_: went.append(1) or (1, 2, 3))
    cases = {
        "rows of torch.float32": {"dtype": torch.float32},
        "a batch of 17": {"batch": 17},
        "a state size of 8": {"d_state": 8},
        "no multiple of 8": {"width": 20},
        "weights that are not bf16": {"weights": torch.float16},
    }
    for reason, case in cases.items():
        case = {"batch": 1, "width": 16, "d_state": 16, "dtype": BF16} | case
        mixer = MambaMixer(case["width"], case["d_state"], dt_rank=8).eval()
        cast_parameters(mixer, case.get("weights", BF16))
        x = torch.zeros(case["batch"], 1, case["width"], dtype=case["dtype"])
        assert reason in (decode.why_not_covered(x, MambaStack([mixer])) or "")
        decode.fused_decode_step(x, MambaStack([mixer]), [x], [x])
    assert len(went) == len(cases)
    assert not launches


@pytest.mark.parametrize(
    "error",
    [compiler.CompilationError("compute capability 7.5 is below 8.0"), OSError("no such library")],
    ids=str,
)
def test_a_gpu_that_no_kernel_runs_on_leaves_all_to_triton(error, monkeypatch, capsys):
    """As with an old GPU or driver: one line, then Triton's kernels."""

    def fail(*_):
        raise error

    monkeypatch.setattr(launch, "load", fail)
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    launch.why_unusable.cache_clear()
    monkeypatch.setattr(triton_scan, "scan", lambda inputs: "triton")
    monkeypatch.setattr(triton_conv, "conv", lambda *_: "triton")
    inputs = scan_case()._replace(u=OnGPU(scan_case().u))
    try:
        for _ in range(2):
            assert scan.scan(inputs) == "triton"
            assert conv.conv(ConvInputs(inputs.u, torch.zeros(1, 4, 64))) == "triton"  # pyright: ignore
    finally:
        launch.why_unusable.cache_clear()
    assert (
        capsys.readouterr().err
        == f"vlm-ssm: backend cuda can't run on GPU 0: {error}; Triton's kernels are used\n"
    )


class OnGPU:
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda", 0)

    def __init__(self, tensor):
        self.tensor = tensor

    def __getattr__(self, name):
        return getattr(self.tensor, name)
