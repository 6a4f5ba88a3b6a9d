"""Inference of a long input through one layer on the CPU, in pieces of time that share their buffers.

A whole input needs a tensor of each step (in_proj, convolution, Δ, scan) for all positions, fresh memory that the
system fills page by page. Pieces need no more memory than the output, and stay near the cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from vlm_ssm import backends
from vlm_ssm.layers.hooked_modules import DeltaProjection, plain, plain_linear
from vlm_ssm.registration.inputs import ConvInputs, ScanInputs
from vlm_ssm.registration.layouts import NATIVE, dense, matrix
from vlm_ssm.segments import SegmentBoundaries
from vlm_ssm.torch.ops import after

if TYPE_CHECKING:
    from vlm_ssm.layers.mixer import GatedSSM

ROWS, BYTES = 1024, 24 << 20
"""Limits of the largest buffer, in_proj's output: fewer rows make products slower, more leave the cache."""
LINE = 32  # numbers of a cache line in bf16: where a buffer begins
STEP = 64  # pieces are multiples: the rows that one task of the convolution computes


def piece_length(x: Tensor, d_inner: int) -> int:
    """Positions of a piece of x (B, T, M), from shapes and dtype alone; T or more if x is short enough as it is."""
    batch, length, _ = x.shape
    rows = min(ROWS, BYTES // (2 * d_inner * x.element_size()))
    limit = max(STEP, rows // max(1, batch))
    pieces = -(-length // limit)
    return -(-length // (pieces * STEP)) * STEP


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


def _has_plain_parts(mixer: GatedSSM, dtype: torch.dtype) -> bool:
    """Whether each part can be replaced by its product: an ordinary module and weight, without hooks or adapters."""
    linear = [(mixer.in_proj, nn.Linear), (mixer.x_proj, nn.Linear), (mixer.out_proj, nn.Linear)]
    parts: list[tuple[Any, type[nn.Module]]] = [*linear, (mixer.dt_proj, DeltaProjection)]
    return plain(mixer.conv1d, nn.Conv1d) and all(
        plain_linear(part, kind, dtype) and type(part.weight) is nn.Parameter for part, kind in parts
    )


def is_long(mixer: GatedSSM, x: Tensor) -> bool:
    """Whether `mix_in_pieces` computes this call: an inference on backend numba, of more than one piece."""
    return (
        _is_inference(x)
        and x.shape[1] > piece_length(x, mixer.d_inner)
        and _has_plain_parts(mixer, x.dtype)
    )


class _Weights(NamedTuple):
    """Parameters as the kernels take them."""

    taps: Tensor  # (1, W, E)
    conv_bias: Tensor | None
    A: Tensor
    D: Tensor
    dt_bias: Tensor


def _weights(mixer: GatedSSM) -> _Weights:
    bias = mixer.conv1d.bias
    return _Weights(
        dense(mixer.conv1d.weight.permute(1, 2, 0)),
        None if bias is None else dense(bias.unsqueeze(0)),
        dense(-torch.exp(mixer.A_log.float()).unsqueeze(0)),
        dense(mixer.D.unsqueeze(0)),
        dense(mixer.dt_proj.bias.unsqueeze(0)),
    )


class _Buffers(NamedTuple):
    """Rows (positions × sequences) of one piece."""

    x: Tensor  # (R, M), for several sequences only
    xz: Tensor  # (R, 2E)
    u: Tensor  # (R, E), the convolution's output
    low: Tensor  # (R, dt_rank + 2S)
    dt: Tensor  # (R, E)
    y: Tensor  # (R, E)


def _buffers(mixer: GatedSSM, x: Tensor, length: int) -> _Buffers:
    """One allocation: several would each be as many page faults as they have pages."""
    from vlm_ssm.numba.memory import with_huge_pages

    rows, E = length * len(x), mixer.d_inner
    widths = (x.shape[2] if len(x) > 1 else 0, 2 * E, E, mixer.dt_rank + 2 * mixer.d_state, E, E)
    sizes = [-(-rows * width // LINE) * LINE for width in widths]
    memory = with_huge_pages(x.new_empty(sum(sizes)))
    parts = zip(memory.split(sizes), widths, strict=True)
    return _Buffers(*(part[: rows * width].view(rows, width) for part, width in parts))


def mix_in_pieces(
    mixer: GatedSSM, x: Tensor, boundaries: SegmentBoundaries | None, conv: Tensor | None, ssm: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `GatedSSM.mix` with the state (conv, ssm) -> y (B, T, M) and the two parts of the state after it."""
    from vlm_ssm.numba.memory import with_huge_pages

    step, weights = piece_length(x, mixer.d_inner), _weights(mixer)
    buffers, y = _buffers(mixer, x, step), with_huge_pages(x.new_empty(x.shape))
    ssm = None if ssm is None else dense(ssm)
    for begin in range(0, x.shape[1], step):
        end = min(begin + step, x.shape[1])
        part = None if boundaries is None else boundaries.between(begin, end)
        conv, ssm = _piece(mixer, weights, buffers, x[:, begin:end], y[:, begin:end], part, conv, ssm)
    assert conv is not None
    assert ssm is not None
    return y, conv, ssm


def _piece(
    mixer: GatedSSM,
    weights: _Weights,
    buffers: _Buffers,
    x: Tensor,
    y: Tensor,
    boundaries: SegmentBoundaries | None,
    conv: Tensor | None,
    ssm: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One piece x (B, T, M), written to y -> the state after it."""
    from vlm_ssm.numba.scan import run as scan

    batch, length, _ = x.shape
    buffer_x, *inner = (t[: batch * length] for t in buffers)
    xz, u, low, dt, out = (t.unflatten(0, (batch, length)) for t in inner)
    _multiply(_as_rows(x, buffer_x), mixer.in_proj, xz)
    inputs, z = xz.unsqueeze(2).chunk(2, dim=-1)
    _convolve(inputs, weights, boundaries, conv, u)
    _multiply(u, mixer.x_proj, low)
    delta, B, C = low.split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    _multiply(delta, mixer.dt_proj, dt)
    B, C = (matrix(m[None, :, :, None]) for m in (B, C))
    reset, h0 = None if boundaries is None else boundaries.reset.contiguous(), None if ssm is None else ssm[None]
    bias = weights.dt_bias
    arguments = ScanInputs(u[None], dt[None], weights.A, B, C, weights.D, bias, z, h0, reset, softplus=True)
    _, last, _, _ = scan(arguments, False, out.unsqueeze(2))
    if y.is_contiguous():
        _multiply(out, mixer.out_proj, y)
    else:
        y.copy_(_multiply(out, mixer.out_proj, buffer_x.view_as(y)))
    return after(inputs.squeeze(2), conv, boundaries, mixer.d_conv - 1), last.squeeze(0)


def _as_rows(x: Tensor, buffer: Tensor) -> Tensor:
    """x itself if its rows follow each other in memory, else a copy in the buffer."""
    return x if x.is_contiguous() else buffer.view_as(x).copy_(x)


def _multiply(x: Tensor, layer: nn.Module, out: Tensor) -> Tensor:
    """x (B, T, D) times the layer's weight, written to out (B, T, D'); a bias is not added."""
    torch.mm(x.flatten(0, 1), layer.get_parameter("weight").mT, out=out.view(-1, out.shape[-1]))
    return out


def _convolve(
    x: Tensor, weights: _Weights, boundaries: SegmentBoundaries | None, state: Tensor | None, out: Tensor
) -> None:
    """Convolution and SiLU of x (B, T, 1, E), written to out (B, T, E)."""
    from vlm_ssm.numba.conv import run as convolution

    state = None if state is None else state.to(x.dtype).contiguous()
    flags = (None, None, None) if boundaries is None else (t.contiguous() for t in boundaries)
    convolution(ConvInputs(x, weights.taps, weights.conv_bias, state, *flags), out[None])
