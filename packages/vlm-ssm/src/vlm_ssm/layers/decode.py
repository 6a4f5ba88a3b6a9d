"""One token at the speed of memory: one call for a whole stack of layers.

On a CPU it is one kernel, with nothing dispatched in between, for a single sequence. On a GPU it is a few launches a
layer, for any number of sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_ssm import backends
from vlm_ssm.mamba_layer import MambaLayer

_NATIVE = (torch.float32, torch.bfloat16)


def single_token_cpu(x: Tensor) -> bool:
    """A single row on the fast backend, with nothing to differentiate or to trace."""
    return (
        x.numel() == x.shape[-1]
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in _NATIVE
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and backends.chosen(x.device) == "numba"
    )


def single_token_gpu(x: Tensor) -> bool:
    """A row of each of any number of sequences on Triton's kernels, with nothing to differentiate or to trace."""
    return (
        x.ndim == 3
        and x.shape[1] == 1
        and len(x) > 0
        and not torch.is_grad_enabled()
        and x.dtype in _NATIVE
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(x.device.type)
        and backends.chosen(x.device) == "triton"
    )


def can_fuse(x: Tensor, mixers: Sequence[MambaLayer]) -> bool:
    """Whether `fused_decode_step` can stand for these layers on x; not for none."""
    if not mixers or not (single_token_cpu(x) or (x.device.type != "meta" and single_token_gpu(x))):
        return False
    return all(mixer.can_fuse(x.dtype) for mixer in mixers)


def _small(t: Tensor | None) -> tuple[int, int]:
    """Address and item size; parameters are fp32 or bf16 and contiguous."""
    if t is None:
        return 0, 4
    assert t.dtype in _NATIVE
    assert t.is_contiguous()
    return t.data_ptr(), t.element_size()


def _layer(
    mixer: MambaLayer, norm: Tensor | None, states: tuple[Tensor, Tensor, Tensor, Tensor]
) -> list[int]:
    """The numbers of a `kernels.decode.Layer`."""
    # plain dictionaries: a module's attributes cost more than a token
    modules: dict[str, Any] = dict(mixer._modules)
    own = mixer._parameters
    conv, dt = modules["conv1d"]._parameters, modules["dt_proj"]._parameters
    names = ("in_proj", "x_proj", "dt_proj", "out_proj")
    matrices = [modules[name]._parameters["weight"].data_ptr() for name in names]
    return [
        *_small(norm), matrices[0], *_small(conv["weight"]), *_small(conv["bias"]), matrices[1], matrices[2],
        *_small(dt["bias"]), *_small(own["A_log"]), *_small(own["D"]), matrices[3],
        *(t.data_ptr() for t in states),
    ]  # fmt: skip


def fused_decode_step(
    x: Tensor,
    mixers: Sequence[MambaLayer],
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    norms: Sequence[Tensor | None] = (None,),
    last_norm: Tensor | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token x (B, 1, M) through layers `residual += mixer(norm(residual))` and a last norm; B is 1 on a CPU.

    `convs` (B, W-1, E) and `ssms` (B, E, S) are each layer's state. Without norms it is the one mixer alone.
    -> y (B, 1, M), and the states after it, (layers, B, W-1, E) and (layers, B, E, S).
    """
    if backends.chosen(x.device) == "triton":
        from vlm_ssm.triton import decode

        return decode.fused_decode_step(x, mixers, convs, ssms, norms, last_norm, eps)
    from vlm_ssm.numba.kernels import decode as kernels

    first, count = mixers[0], len(mixers)
    M, E, S, W, R = x.shape[-1], first.d_inner, first.d_state, first.d_conv, first.dt_rank
    x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    convs = [c.to(x.dtype).contiguous() for c in convs]
    ssms = [s.float().contiguous() for s in ssms]
    conv_after = x.new_empty(count, 1, W - 1, E)
    ssm_after = x.new_empty(count, 1, E, S, dtype=torch.float32)
    after = zip(conv_after.unbind(0), ssm_after.unbind(0), strict=True)
    table: list[int] = []
    for mixer, norm, conv, ssm, (c, h) in zip(mixers, norms, convs, ssms, after, strict=True):
        table.extend(_layer(mixer, norm, (conv, c, ssm, h)))
    constant = torch.tensor([eps], dtype=torch.float32)
    sizes = (E, E, E, R + 2 * S, E, E, M)
    shared = torch.empty(sum(-(-n // 16) * 16 for n in sizes), dtype=torch.float32)
    arguments = kernels.Step(
        count, M, E, S, W, R, x.element_size(), x.data_ptr(), y.data_ptr(), kernels.Small(*_small(last_norm)),
        constant.data_ptr(), shared.data_ptr(),
    )  # fmt: skip
    floats = kernels.scratch_floats(M, E, R)
    kernels.decode_layers(
        torch.get_num_threads(), arguments, tuple(table), floats=floats, phases=4 * count + 1
    )
    return y, conv_after, ssm_after


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear` (…, M) -> (…, V); for one row on the fast backend, all cores read the matrix."""
    fits = weight.ndim == 2 and x.shape[-1] == weight.shape[1]
    if not fits or weight.dtype != x.dtype or not weight.is_contiguous() or not single_token_cpu(x):
        return F.linear(x, weight)
    from vlm_ssm.numba.kernels import matvec as kernels

    row, y = x.float().contiguous(), torch.empty(weight.shape[0], dtype=torch.float32)
    arguments = kernels.Product(
        weight.data_ptr(), weight.element_size(), len(weight), weight.shape[1], row.data_ptr(), y.data_ptr()
    )
    kernels.matvec(-(-weight.shape[0] // kernels.ROWS), arguments, floats=weight.shape[1] + 16)
    return y.to(x.dtype).view(*x.shape[:-1], -1)
