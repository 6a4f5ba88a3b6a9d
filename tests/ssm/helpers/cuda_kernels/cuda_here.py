"""Where the tests of the CUDA kernels run: on a GPU, with all kernels of a module compiled side by side before."""

from types import MappingProxyType

import conv_cases
import pytest
import torch
from cases import errors
from cuda_variants import Recorded, compile_together, recorded

from vlm_core.interfaces import PADDING
from vlm_ssm import backends, ops

if backends.missing("cuda"):
    pytest.skip("the kernels need a CUDA device", allow_module_level=True)

from vlm_ssm.cuda import compiler, conv, parameters, reduce, scan_backward, scan_forward
from vlm_ssm.cuda.norms import layer_norm, rms_norm
from vlm_ssm.triton import conv as triton_conv
from vlm_ssm.triton import norm as triton_norm
from vlm_ssm.triton import scan as triton_scan

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
HALVES = (BF16, FP16)
ROUNDING = MappingProxyType({torch.bfloat16: 3e-3, torch.float16: 1.5e-3, torch.float32: 3e-6})


@pytest.fixture(scope="module", autouse=True)
def compiled(request):
    """Kernels of all selected tests, side by side."""

    scan_op = ops.scan

    def stop(*_, **__):
        raise Recorded

    def run(item):
        def once(patch):
            patch.setattr(request.module, "run_exact", stop, raising=False)
            patch.setattr(conv_cases, "exact", stop)
            patch.setattr(
                ops, "scan", lambda inputs, use: scan_op(inputs, use=use) if use == "cuda" else stop()
            )
            values = {"monkeypatch": patch, **(item.callspec.params if hasattr(item, "callspec") else {})}
            code = item.function.__code__
            needed = {n: v for n, v in values.items() if n in code.co_varnames[: code.co_argcount]}
            item.function(**needed)

        return once

    items = [item for item in request.session.items if item.module is request.module]
    with torch.device("cuda"):
        variants = recorded(
            (conv, layer_norm, rms_norm, parameters, reduce, scan_backward, scan_forward), map(run, items)
        )
    major, minor = torch.cuda.get_device_capability()
    compile_together(variants, compiler.target(10 * major + minor))


@pytest.fixture(autouse=True)
def on_the_gpu():
    with torch.device("cuda"):
        yield


@pytest.fixture
def no_triton(monkeypatch):
    """Fails where a case is not covered."""

    def refuse(*_, **__):
        raise AssertionError("went to Triton")

    monkeypatch.setattr(triton_scan, "scan", refuse)
    monkeypatch.setattr(triton_conv, "conv", refuse)
    monkeypatch.setattr(triton_norm, "add_rms_norm", refuse)


def marks(kind, batch, length):
    if kind == "none":
        return None
    numbers = torch.randint(0, 3, (batch, length))
    return torch.where(torch.rand(batch, length) < 0.3, PADDING, numbers)


def near(found, exact, dtype, what=""):
    far = {n: e for n, e in errors(found, exact).items() if not e <= 2 * ROUNDING[dtype]}
    assert not far, f"{what}: {far}"
