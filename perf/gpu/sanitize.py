"""The CUDA kernels under NVIDIA's compute-sanitizer: accesses outside of memory, and races in shared memory.

    uv run python -m perf.gpu.sanitize [--tools racecheck] [--only scan conv norm layer]

Needs `compute-sanitizer` of the CUDA toolkit on the PATH, and a GPU. Every kernel runs forward and backward on small
inputs with and without segments, directions, missing channels and parts of time; torch's caching allocator is off, so
that each tensor ends where its memory does. The exit code is 1 if a tool reports an error.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import torch
from perf.lib.common import parser
from perf.lib.gpu import DEVICE
from perf.lib.tables import table

from vlm_ssm import MambaMixer, boundaries_of, cast_parameters, ops
from vlm_ssm.layers import decode
from vlm_ssm.mamba_layer import MambaStack
from vlm_ssm.registration.inputs import ScanInputs

TOOLS = {"memcheck": ["--report-api-errors", "no"], "racecheck": []}
LENGTH = 70
BACKEND = "cuda" if DEVICE.type == "cuda" else "torch"  # without a GPU the script only shows that it runs


def scan(
    directions: int,
    width: int,
    segmented: bool,
    keep: bool,
    states: int = 16,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Scan (K, 2, T, E), its last state and all gradients."""
    K, N, T, E, S, J = directions, 2, LENGTH, width, states, directions if keep else 1
    rows = torch.randn(2, K, N, T, E).to(dtype)
    matrices = torch.randn(2, K, N, T, 1, S).to(dtype)
    order = torch.stack([torch.randperm(T) for _ in range(K)]) if K > 1 else None
    reset = boundaries_of(torch.arange(T).expand(N, T) // 20 - 1).reset if segmented else None
    tensors = [rows[0], rows[1], -torch.rand(1, E, S), matrices[0], matrices[1], torch.randn(1, E)]
    tensors += [torch.randn(1, E), torch.randn(N, T, J, E).to(dtype), torch.randn(K, N, E, S)]
    leaves = [t.clone().requires_grad_() for t in tensors]
    y, last = ops.scan(ScanInputs._make([*leaves, reset, order, True, keep]), use=BACKEND)
    torch.autograd.grad(y.float().sum() + last.sum(), leaves)


def conv(directions: int, width: int, segmented: bool) -> None:
    """Convolution of (2, T, 1, E) in bf16 and all gradients."""
    T = LENGTH
    order = torch.stack([torch.randperm(T) for _ in range(directions)]) if directions > 1 else None
    boundaries = boundaries_of(torch.arange(T).expand(2, T) // 20 - 1) if segmented else None
    state = None if directions > 1 else torch.randn(2, 3, width).bfloat16()
    tensors = [torch.randn(2, T, 1, width).bfloat16(), torch.randn(1, width, 4), torch.randn(1, width), state]
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    x, weight, bias, past = leaves
    assert x is not None
    assert weight is not None
    y = ops.conv(x, weight, bias, past, boundaries, order, use=BACKEND)
    torch.autograd.grad(y.float().sum(), [t for t in leaves if t is not None])


def norm(width: int) -> None:
    """Residual norm of (2, T, M), and all gradients."""
    residual, added = torch.randn(2, LENGTH, width), torch.randn(2, LENGTH, width).bfloat16()
    weight = torch.randn(width)
    leaves = [t.requires_grad_() for t in (residual, added, weight)]
    summed, y = ops.add_rms_norm(residual, added, weight, 1e-5, use=BACKEND)
    torch.autograd.grad(summed.sum() + y.sum(), leaves)


@torch.no_grad()
def layer(width: int, segmented: bool) -> None:
    """A layer in bf16 as one operation with the state after it, and a token through two of them."""
    mixers = [MambaMixer(width, 16, dt_rank=max(8, width // 16)).eval() for _ in range(2)]
    for mixer in mixers:
        cast_parameters(mixer, torch.bfloat16)
    segments = torch.arange(LENGTH).expand(2, LENGTH) // 20 - 1 if segmented else None
    x = torch.randn(2, LENGTH, width).bfloat16()
    _, state = mixers[0](x, None if segments is None else boundaries_of(segments), None)
    norms = [torch.ones(width).bfloat16()] * 2
    stack = MambaStack(mixers, norms, norms[0], 1e-5)
    if decode.can_fuse(x[:, :1], mixers):
        decode.fused_decode_step(x[:, :1], stack, [state.conv] * 2, [state.ssm] * 2)


def scans() -> None:
    for directions, width, segmented in itertools.product((1, 2), (40, 128), (False, True)):
        for keep in (False, True)[:directions]:
            scan(directions, width, segmented, keep)
    for states, dtype in itertools.product((8, 24, 64), (torch.bfloat16, torch.float32)):
        scan(1, 40, True, False, states, dtype)


def convs() -> None:
    for directions, width, segmented in itertools.product((1, 2), (40, 128), (False, True)):
        conv(directions, width, segmented and directions == 1)


def layers() -> None:
    layer(40, False)
    layer(40, True)
    layer(2560, False)  # all layers of a token in one launch


KERNELS = {"scan": scans, "conv": convs, "norm": lambda: norm(72), "layer": layers}


def run_all(names: Sequence[str]) -> None:
    with torch.device(DEVICE):
        for name in names:
            KERNELS[name]()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def checked(tool: str, name: str, only: Sequence[str]) -> tuple[list[str], int]:
    """A row of the table, and the exit code, of one tool over some kernels."""
    words = [tool, "--tool", name, *TOOLS[name], "--error-exitcode", "9"]
    words += [sys.executable, "-m", "perf.gpu.sanitize", "--inside", "--only", *only]
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write("\n".join(done.stdout.splitlines()[:60]) + "\n")
    summaries = [line.strip("= ") for line in done.stdout.splitlines() if "SUMMARY" in line]
    return [name, " ".join(summaries) or "no summary"], done.returncode


def main() -> int:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--tools", nargs="+", choices=TOOLS, default=[*TOOLS])
    arguments.add_argument("--only", nargs="+", choices=KERNELS, default=[*KERNELS])
    arguments.add_argument("--inside", action="store_true", help="run the kernels, without a tool")
    options = arguments.parse_args()
    run_all(options.only)  # with tools, this compiles what their processes load from the cache
    if options.inside:
        return 0
    tools = [] if options.smoke else [shutil.which("compute-sanitizer")]
    if None in tools:
        sys.stderr.write("compute-sanitizer is not on the PATH; it is part of the CUDA toolkit\n")
        return 2
    checks = [checked(tool, name, options.only) for tool in tools if tool for name in options.tools]
    rows = [row for row, _ in checks] or [["none", "the kernels ran"]]
    table("CUDA kernels under compute-sanitizer", ["tool", "result"], rows)
    return int(any(code for _, code in checks))


if __name__ == "__main__":
    sys.exit(main())
