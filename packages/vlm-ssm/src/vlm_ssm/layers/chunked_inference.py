"""Inference of a long input through one layer on the CPU, in pieces of time that share their buffers.

A whole input needs a tensor of each step (in_proj, convolution, Δ, scan) for all positions, fresh memory that the
system fills page by page. Pieces need no more memory than the output, and stay near the cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vlm_ssm import backends
from vlm_ssm.layers.hooked_modules import DeltaProjection, plain, plain_linear
from vlm_ssm.mamba_layer import MambaParts
from vlm_ssm.registration.inputs import ConvInputs, ScanInputs
from vlm_ssm.registration.layer_parameters import prepare
from vlm_ssm.registration.layouts import NATIVE
from vlm_ssm.runtime.huge_pages import with_huge_pages
from vlm_ssm.segments import SegmentBoundaries
from vlm_ssm.torch.ops import after

State = TypeVar("State")
ROWS, BYTES = 1024, 24 << 20
"""Limits of the largest buffer, in_proj's output: fewer rows make products slower, more leave the cache."""
LINE = 32  # numbers of a cache line in bf16: where a buffer begins
STEP = 64  # pieces are multiples: the rows that one task of the convolution computes


def piece_length(x: Tensor, d_inner: int) -> int:
    """Positions of a piece of x (B, T, M), from shapes and dtype alone; T or more if x is short enough as it is."""
    batch, length, _ = x.shape
    rows = min(ROWS, BYTES // (2 * d_inner * x.element_size()))
    limit = max(STEP, rows // max(1, batch))
    pieces = max(1, -(-length // limit))
    return -(-length // (pieces * STEP)) * STEP


def in_pieces(
    run: Callable[[Tensor, SegmentBoundaries | None, State | None], tuple[Tensor, State]],
    x: Tensor,
    boundaries: SegmentBoundaries | None,
    state: State | None,
    length: int,
) -> tuple[Tensor, State]:
    """`run(x, boundaries, state)` -> (y, state after it), on pieces of x (B, T, M) of `length` positions."""
    y = None
    for begin in range(0, x.shape[1], length):
        end = min(begin + length, x.shape[1])
        part = None if boundaries is None else boundaries.between(begin, end)
        y_part, state = run(x[:, begin:end], part, state)
        if y is None:
            y = with_huge_pages(y_part.new_empty(len(x), x.shape[1], y_part.shape[2]))
        y[:, begin:end] = y_part
    assert y is not None
    assert state is not None
    return y, state


def _is_inference(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in NATIVE
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and backends.chosen(x.device) == "numba"
    )


def _has_plain_parts(mixer: MambaParts, dtype: torch.dtype) -> bool:
    """Whether each part can be replaced by its product: an ordinary module and weight, without hooks or adapters."""
    linear = [(mixer.in_proj, nn.Linear), (mixer.x_proj, nn.Linear), (mixer.out_proj, nn.Linear)]
    parts: list[tuple[Any, type[nn.Module]]] = [*linear, (mixer.dt_proj, DeltaProjection)]
    return plain(mixer.conv1d, nn.Conv1d) and all(
        plain_linear(part, kind, dtype) and type(part.weight) is nn.Parameter for part, kind in parts
    )


def is_long(mixer: MambaParts, x: Tensor) -> bool:
    """Whether `mix_in_pieces` computes this call: an inference on backend numba, of more than one piece."""
    return (
        _is_inference(x) and x.shape[1] > piece_length(x, mixer.d_inner) and _has_plain_parts(mixer, x.dtype)
    )


class _Buffers(NamedTuple):
    """Rows (positions × sequences) of one piece."""

    x: Tensor  # (R, M), for several sequences only
    xz: Tensor  # (R, 2E)
    u: Tensor  # (R, E), the convolution's output
    low: Tensor  # (R, dt_rank + 2S)
    dt: Tensor  # (R, E)
    y: Tensor  # (R, E)


def _buffers(mixer: MambaParts, x: Tensor, length: int) -> _Buffers:
    """One allocation: several would each be as many page faults as they have pages."""
    rows, E = length * len(x), mixer.d_inner
    widths = (x.shape[2] if len(x) > 1 else 0, 2 * E, E, mixer.dt_rank + 2 * mixer.d_state, E, E)
    sizes = [-(-rows * width // LINE) * LINE for width in widths]
    memory = with_huge_pages(x.new_empty(sum(sizes)))
    parts = zip(memory.split(sizes), widths, strict=True)
    return _Buffers(*(part[: rows * width].view(rows, width) for part, width in parts))


def mix_in_pieces(
    mixer: MambaParts,
    x: Tensor,
    boundaries: SegmentBoundaries | None,
    conv: Tensor | None,
    ssm: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `GatedSSM.mix` with the state (conv, ssm) -> y (B, T, M) and the two parts of the state after it."""
    length = piece_length(x, mixer.d_inner)
    parameters = prepare(mixer.A_log, mixer.conv1d.weight, mixer.conv1d.bias)
    buffers, y = _buffers(mixer, x, length), with_huge_pages(x.new_empty(x.shape))
    for begin in range(0, x.shape[1], length):
        end = min(begin + length, x.shape[1])
        part = None if boundaries is None else boundaries.between(begin, end)
        conv, ssm = _piece(mixer, parameters, buffers, x[:, begin:end], y[:, begin:end], part, conv, ssm)
    assert conv is not None
    assert ssm is not None
    return y, conv, ssm


def _piece(
    mixer: MambaParts,
    parameters: tuple[Tensor, Tensor, Tensor | None],
    buffers: _Buffers,
    x: Tensor,
    y: Tensor,
    boundaries: SegmentBoundaries | None,
    conv: Tensor | None,
    ssm: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One piece x (B, T, M), written to y -> the state after it. `parameters` are those of `prepare`."""
    (batch, length, _), (A, taps, conv_bias) = x.shape, parameters
    row_buffer, *inner = (t[: batch * length] for t in buffers)
    xz, u, low, dt, out = (t.unflatten(0, (batch, length)) for t in inner)
    _multiply(_as_rows(x, row_buffer), mixer.in_proj, xz)
    inputs, z = xz.unsqueeze(2).chunk(2, dim=-1)
    _convolve(taps, conv_bias, inputs, conv, boundaries, u)
    _multiply(u, mixer.x_proj, low)
    low_rank, B, C = low.unsqueeze(0).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    _multiply(low_rank[0], mixer.dt_proj, dt)
    h0, reset = None if ssm is None else ssm[None], None if boundaries is None else boundaries.reset
    B, C, D, bias = B.unsqueeze(3), C.unsqueeze(3), mixer.D[None], mixer.dt_proj.bias[None]
    ssm = _scan(ScanInputs(u[None], dt[None], A, B, C, D, bias, z, h0, reset, softplus=True), out)
    if y.is_contiguous():
        _multiply(out, mixer.out_proj, y)
    else:
        y.copy_(_multiply(out, mixer.out_proj, row_buffer.view_as(y)))
    return after(inputs.squeeze(2), conv, boundaries, mixer.d_conv - 1), ssm


def _as_rows(x: Tensor, buffer: Tensor) -> Tensor:
    """x itself if its rows follow each other in memory, else a copy in the buffer."""
    return x if x.is_contiguous() else buffer.view_as(x).copy_(x)


def _multiply(x: Tensor, layer: nn.Module, out: Tensor) -> Tensor:
    """x (B, T, D) times the layer's weight, written to out (B, T, D'); a bias is not added."""
    torch.mm(x.flatten(0, 1), layer.get_parameter("weight").mT, out=out.view(-1, out.shape[-1]))
    return out


def _convolve(
    taps: Tensor,
    bias: Tensor | None,
    x: Tensor,
    state: Tensor | None,
    boundaries: SegmentBoundaries | None,
    out: Tensor,
) -> None:
    """Convolution of x (B, T, 1, E) with taps (1, W, E) and bias (1, E), and SiLU, written to out (B, T, E)."""
    from vlm_ssm.numba import conv as kernels

    inputs = ConvInputs(x, taps, bias, state, *(boundaries or ()))
    kernels.run(kernels.KERNELS.ready(inputs), out[None])


def _scan(inputs: ScanInputs, out: Tensor) -> Tensor:
    """The scan's y, written to out (B, T, E) -> its last state (B, E, S)."""
    from vlm_ssm.numba import scan as kernels

    _, last, _, _ = kernels.run(kernels.KERNELS.ready(inputs), False, out.unsqueeze(2))
    return last[0]
