"""Calls that launch every CUDA kernel in every form, for a fixture that records launches."""

import nvrtc_here  # noqa: F401  skips where NVRTC is missing
import torch

from vlm_ssm import MambaMixer, cast_parameters
from vlm_ssm.cuda import conv, parameters, scan
from vlm_ssm.cuda.decoding import stack_step
from vlm_ssm.cuda.decoding import step as decode
from vlm_ssm.cuda.norms import layer_norm, rms_norm
from vlm_ssm.mamba_layer import MambaStack
from vlm_ssm.registration.inputs import ConvInputs, ScanGradients, ScanInputs

BF16 = torch.bfloat16


def scan_case(
    K=1, T=70, E=64, dtype=BF16, *, own=False, keep=False, gated=True, ordered=True, reset=False, states=16
):
    N, J, P = 2, K if keep else 1, K if own else 1
    rows, matrices = torch.zeros(K, N, T, E, dtype=dtype), torch.zeros(K, N, T, 1, states, dtype=dtype)
    order = torch.arange(T).expand(K, -1).contiguous() if ordered else None
    return ScanInputs(
        rows,
        rows.clone(),
        torch.zeros(P, E, states),
        matrices,
        matrices.clone(),
        torch.zeros(P, E),
        None,
        torch.zeros(N, T, J, E, dtype=dtype) if gated else None,
        None,
        torch.zeros(N, T, dtype=torch.uint8) if reset else None,
        order,
        softplus=True,
        keep_directions=keep,
    )


def run_scan(inputs, y=None):
    """A forward and a backward, whose results have the shapes of what they belong to."""
    out, last, acc, starts = scan._run(inputs, True)
    grads = scan._backward(inputs, ScanGradients(out, last, acc, starts, y=y))
    for grad, t in zip(grads, inputs[:9], strict=True):
        assert t is None or grad.shape == t.shape


def run_conv(dtype=BF16, *, state=True, boundaries=False, directions=0):
    x = torch.zeros(2, 70, 1, 64, dtype=dtype)
    marks = torch.zeros(2, 70, dtype=torch.uint8)
    segments = (marks, marks, torch.zeros(2, dtype=torch.int64)) if boundaries else (None, None, None)
    order = torch.arange(70).expand(directions, -1).contiguous() if directions else None
    past = torch.zeros(2, 3, 64, dtype=dtype) if state else None
    inputs = ConvInputs(x, torch.zeros(1, 4, 64), torch.zeros(1, 64), past, *segments, order)
    grads = conv._backward(conv._run(inputs), inputs)
    assert grads[0].shape == x.shape
    if not directions:
        assert conv._after(inputs).shape == (2, 3, 64)


@torch.no_grad()
def run_step(batch=1, *, width=64, rank=8, layers=2, alone=False, **options):
    """A token of each sequence through a stack of layers, or through one without norms; every kernel is CUDA's."""
    mixers = [MambaMixer(width, 16, dt_rank=rank, **options).eval() for _ in range(1 if alone else layers)]
    for mixer in mixers:
        cast_parameters(mixer, BF16)
    E, W = mixers[0].d_inner, mixers[0].d_conv
    convs, ssms = (
        [torch.zeros(batch, W - 1, E, dtype=BF16)] * len(mixers),
        [torch.zeros(batch, E, 16)] * len(mixers),
    )
    norms = [None] if alone else [torch.ones(width, dtype=BF16)] * len(mixers)
    x = torch.zeros(batch, 1, width, dtype=BF16)
    stack = MambaStack(mixers, norms, None if alone else norms[0], 1e-5)
    assert decode.why_not_covered(x, stack) is None
    y, conv, ssm = decode.fused_decode_step(x, stack, convs, ssms)
    assert (y.shape, conv.shape, ssm.shape) == (
        x.shape,
        (len(mixers), batch, W - 1, E),
        (len(mixers), batch, E, 16),
    )


def run_norm(width=64, out=BF16, y=BF16, *, added=True):
    residual, weight = torch.zeros(5, width), torch.zeros(width)
    given = torch.zeros(5, width, dtype=out) if added else None
    kernels = rms_norm.norm_kernels(residual)
    assert kernels is rms_norm.KERNELS
    _, result, scale = kernels.forward(residual, given, weight, 1e-5, y)
    grad, grad_weight = kernels.backward(result, None, residual, weight, scale, added=given)
    assert grad.shape == residual.shape
    assert grad_weight.shape == weight.shape


def run_layer_norm(x=BF16, skip=BF16, y=BF16, width=64):
    rows, weight = torch.zeros(5, width, dtype=x), torch.zeros(width)
    result, *kept = layer_norm._forward(rows, rows.to(skip), weight, weight, 1e-5, y)
    grads = layer_norm._backward(result, rows, rows.to(skip), weight, *kept)
    assert grads[2].shape == (2, width)


def run_parameters():
    for dtype in (BF16, torch.float32):
        A, by_tap, bias = parameters.prepare(
            torch.zeros(64, 16), torch.zeros(64, 1, 4, dtype=dtype), torch.zeros(64, dtype=dtype)
        )
        assert bias.shape == (1, 64)
    grad_A_log, grad_weight = parameters.gradients(A, A, by_tap)
    assert grad_A_log.shape == (64, 16)
    assert grad_weight.shape == (64, 1, 4)


def run_step_in_one_launch(batch=1, *, blocks=132, width=2560, rank=160):
    """As `run_step` on a GPU on which one launch computes all layers."""
    kept = stack_step.gpu_of, stack_step.VERIFIED
    stack_step.gpu_of = lambda device: stack_step.Gpu(blocks, 232448)
    stack_step.VERIFIED = {(width, 2 * width, rank, 4, blocks)}
    try:
        run_step(batch, width=width, rank=rank)
    finally:
        stack_step.gpu_of, stack_step.VERIFIED = kept


CASES = {
    "parameters": run_parameters,
    "token": run_step,
    "tokens": lambda: run_step(7, width=72, rank=40, d_conv=3),
    "token of a layer": lambda: run_step(2, alone=True),
    "many tokens": lambda: run_step(16, width=2048, rank=128, layers=1),
    "tokens of a layer": lambda: run_step(9, alone=True),
    "token of 2.8B": lambda: run_step(8, width=2560, rank=160, layers=1),
    "tokens of 130M in one launch": lambda: run_step_in_one_launch(9, width=768, rank=48, blocks=148),
    "tokens of 790M in one launch": lambda: run_step_in_one_launch(4, width=1536, rank=96, blocks=114),
    "token of 2.8B in one launch": lambda: run_step_in_one_launch(),
    "tokens of 2.8B in one launch": lambda: run_step_in_one_launch(16, blocks=100),
    "tokens of 2.8B on 114 multiprocessors": lambda: run_step_in_one_launch(16, blocks=114),
    "tokens of 2.8B on 160 multiprocessors": lambda: run_step_in_one_launch(5, blocks=160),
    "plain": lambda: run_scan(scan_case(ordered=False)),
    "long": lambda: run_scan(scan_case(T=4000, E=72, gated=False, ordered=False, reset=True)),
    "summed": lambda: run_scan(scan_case(K=2)),
    "chained": lambda: run_scan(scan_case(K=2, T=40, E=20480)),
    "apart": lambda: run_scan(scan_case(K=2, own=True, keep=True, dtype=torch.float16, reset=True)),
    "with y": lambda: run_scan(scan_case(ordered=False), torch.zeros(2, 70, 1, 64, dtype=BF16)),
    "many": lambda: run_scan(scan_case(E=10240)),
    "some": lambda: run_scan(scan_case(E=5120)),
    "few states": lambda: run_scan(scan_case(E=72, states=8, ordered=False)),
    "many states": lambda: run_scan(scan_case(states=64)),
    "odd states": lambda: run_scan(scan_case(T=700, states=24, reset=True)),
    "fp32": lambda: run_scan(scan_case(E=72, dtype=torch.float32, ordered=False)),
    "fp32, many states": lambda: run_scan(scan_case(E=72, dtype=torch.float32, states=64, reset=True)),
    "norm": run_norm,
    "norm of fp32": lambda: run_norm(2560, torch.float32, torch.float32),
    "norm without a sum": lambda: run_norm(8192, y=torch.float16, added=False),
    "layer norm": run_layer_norm,
    "layer norm of two types": lambda: run_layer_norm(BF16, torch.float32, BF16, 5120),
    "conv": run_conv,
    "conv of segments": lambda: run_conv(torch.float16, boundaries=True),
    "conv of directions": lambda: run_conv(torch.float32, state=False, directions=4),
}
