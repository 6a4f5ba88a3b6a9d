"""One decoding step of a stack of Mamba layers in one call, bound by memory bandwidth.

On a CPU it is one numba kernel, for up to `MOST_ROWS` sequences. On a GPU it is a few Triton launches a layer, for any
number of sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_ssm import backends
from vlm_ssm.mamba_layer import MambaLayer, MambaStack
from vlm_ssm.runtime.huge_pages import with_huge_pages

_NATIVE = (torch.float32, torch.bfloat16)
MOST_ROWS = 16
"""With more rows on a CPU, products are bound by arithmetic, and torch's are as fast."""


def few_rows_cpu(x: Tensor) -> bool:
    """Whether x has 1 to `MOST_ROWS` rows on backend numba, without gradients, autocast or tracing."""
    return (
        0 < x.numel() <= MOST_ROWS * x.shape[-1]
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in _NATIVE
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and backends.chosen(x.device) == "numba"
    )


def single_token_cpu(x: Tensor) -> bool:
    """Whether x is (B, 1, M) that `few_rows_cpu` accepts."""
    return x.ndim == 3 and x.shape[1] == 1 and few_rows_cpu(x)


def single_token_gpu(x: Tensor) -> bool:
    """Whether x is (B, 1, M), B > 0, on backend triton, without gradients, autocast or tracing."""
    return (
        x.ndim == 3
        and x.shape[1] == 1
        and len(x) > 0
        and not torch.is_grad_enabled()
        and x.dtype in _NATIVE
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(x.device.type)
        and backends.chosen(x.device) in ("cuda", "triton")
    )


def can_fuse(x: Tensor, mixers: Sequence[MambaLayer]) -> bool:
    """Whether `fused_decode_step` computes what these layers compute on x; False for no layers."""
    if not mixers or not (single_token_cpu(x) or (x.device.type != "meta" and single_token_gpu(x))):
        return False
    return all(mixer.can_fuse(x.dtype) for mixer in mixers)


def _small(t: Tensor | None) -> tuple[int, int]:
    """Address and item size of a contiguous fp32 or bf16 parameter; address 0 for None."""
    if t is None:
        return 0, 4
    assert t.dtype in _NATIVE
    assert t.is_contiguous()
    return t.data_ptr(), t.element_size()


def _layer(
    mixer: MambaLayer, norm: Tensor | None, states: tuple[Tensor, Tensor, Tensor, Tensor]
) -> list[int]:
    """The fields of a `kernels.decode.Layer`, flat."""
    # dictionaries: attribute access on modules takes longer than the kernel
    modules: dict[str, Any] = dict(mixer._modules)
    params = mixer._parameters
    conv, dt = modules["conv1d"]._parameters, modules["dt_proj"]._parameters
    names = ("in_proj", "x_proj", "dt_proj", "out_proj")
    matrices = [modules[name]._parameters["weight"].data_ptr() for name in names]
    return [
        *_small(norm),
        matrices[0],
        *_small(conv["weight"]),
        *_small(conv["bias"]),
        matrices[1],
        matrices[2],
        *_small(dt["bias"]),
        *_small(params["A_log"]),
        *_small(params["D"]),
        matrices[3],
        *(t.data_ptr() for t in states),
    ]


def gpu_step(device: torch.device) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """`fused_decode_step` of a GPU's backend, which also takes the memory `after` for the next states."""
    module = {"cuda": "cuda.decoding.step", "triton": "triton.decode"}[backends.chosen(device)]
    return import_module(f"vlm_ssm.{module}").fused_decode_step


def fused_decode_step(
    x: Tensor,
    stack: MambaStack,
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    after: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token x (B, 1, M) through a stack.

    `convs` (B, W-1, E) and `ssms` (B, E, S) are the states of each layer. -> y (B, 1, M), and the next states
    (layers, B, W-1, E) and (layers, B, E, S), in the memory `after` if it is given, which may be that of the states
    before. Check `can_fuse` first. On a CPU a sequence's result is the same to the bit for every B. Raises `ValueError`
    for states of another B.
    """
    if any(len(state) != len(x) for state in (*convs, *ssms)):
        raise ValueError(f"{len(x)} sequences, but states of {sorted({len(s) for s in (*convs, *ssms)})}")
    if backends.chosen(x.device) in ("cuda", "triton"):
        return gpu_step(x.device)(x, stack, convs, ssms, after)
    mixers, norms, last_norm, eps = stack
    x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    convs = [c.to(x.dtype).contiguous() for c in convs]
    ssms = [s.float().contiguous() for s in ssms]
    after = after or _new_states(x, mixers)
    assert (after[0].dtype, after[1].dtype) == (x.dtype, torch.float32)
    table: list[int] = []
    layers = zip(mixers, norms, convs, ssms, after[0].unbind(0), after[1].unbind(0), strict=True)
    for mixer, norm, conv, ssm, c, h in layers:
        assert c.is_contiguous()
        assert h.is_contiguous()
        table.extend(_layer(mixer, norm, (conv, c, ssm, h)))
    _run_kernel(mixers[0], x, y, table, last_norm, eps)
    return y, *after


def _new_states(x: Tensor, mixers: Sequence[MambaLayer]) -> tuple[Tensor, Tensor]:
    """Memory for the states of all layers: (layers, B, W-1, E) and (layers, B, E, S)."""
    count, W, S, E = len(mixers), mixers[0].d_conv, mixers[0].d_state, mixers[0].d_inner
    conv, ssm = x.new_empty(count, len(x), W - 1, E), x.new_empty(count, len(x), E, S, dtype=torch.float32)
    return with_huge_pages(conv), with_huge_pages(ssm)


def _run_kernel(
    mixer: MambaLayer, x: Tensor, y: Tensor, table: list[int], last_norm: Tensor | None, eps: float
) -> None:
    """The numba kernel on layers of the shape of `mixer`; `table` holds the fields of each, flat."""
    from vlm_ssm.numba.kernels import decode as kernels

    (B, _, M), E, S, W, R = x.shape, mixer.d_inner, mixer.d_state, mixer.d_conv, mixer.dt_rank
    layers, eps_ = len(table) // kernels.LAYER_NUMBERS, torch.tensor([eps], dtype=torch.float32)
    shared = torch.empty(kernels.shared_floats(B, M, E, S, R), dtype=torch.float32)
    step = kernels.Step(
        batch=B,
        layers=layers,
        M=M,
        E=E,
        S=S,
        W=W,
        R=R,
        item=x.element_size(),
        x=x.data_ptr(),
        y=y.data_ptr(),
        norm=kernels.Small(*_small(last_norm)),
        eps=eps_.data_ptr(),
        shared=shared.data_ptr(),
    )
    options = {"floats": kernels.scratch_floats(B, M, S, W, R), "phases": 4 * layers + 1}
    kernels.decode_layers(torch.get_num_threads(), step, tuple(table), **options)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear` (…, M) -> (…, V): few rows in one pass over the weight, by numba on a CPU and `matvec` on a GPU."""
    if x.is_cuda and backends.chosen(x.device) == "cuda" and not torch.is_autocast_enabled("cuda"):
        from vlm_ssm.cuda.decoding import matvec

        if (y := matvec.linear(x, weight)) is not None:
            return y
    fits = weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    if not fits or weight.dtype != x.dtype or not weight.is_contiguous() or not few_rows_cpu(x):
        return F.linear(x, weight)
    from vlm_ssm.numba.kernels import matvec as kernels

    (rows, width), flat = weight.shape, x.reshape(-1, x.shape[-1]).float().contiguous()
    y = torch.empty(len(flat), rows, dtype=torch.float32)
    product = kernels.Product(
        weight.data_ptr(), weight.element_size(), rows, width, len(flat), flat.data_ptr(), y.data_ptr()
    )
    kernels.matvec(-(-rows // kernels.ROWS), product, floats=len(flat) * width)
    return y.to(x.dtype).view(*x.shape[:-1], -1)
