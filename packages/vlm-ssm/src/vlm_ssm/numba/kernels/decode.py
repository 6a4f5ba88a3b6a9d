"""One token through a stack of Mamba layers in one parallel region: norm, projections, convolution, recurrence.

Every thread has its own copy of the residual and computes the norm itself: that costs less than a barrier.
"""

from __future__ import annotations

from typing import NamedTuple

from vlm_ssm.numba.kernels.jit import FIRST, SECOND, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import column, load, store
from vlm_ssm.numba.kernels.matvec import ROWS, in_pairs, product
from vlm_ssm.numba.kernels.scalars import index, number, put_number
from vlm_ssm.numba.kernels.simd import LANES, LOG2E, exp2, fma, sigmoid, softplus, splat, total
from vlm_ssm.numba.kernels.work_items import next_task, reader, thread_scratch, wait


class Small(NamedTuple):
    """A vector of parameters: address (0: absent) and item size."""

    at: int
    item: int


class Layer(NamedTuple):
    """Addresses of one layer; the four matrices and both conv states have the step's item size."""

    norm: Small  # (M)
    in_proj: int  # (2E, M)
    conv_weight: Small  # (E, W)
    conv_bias: Small
    x_proj: int
    dt_proj: int
    dt_bias: Small
    A_log: Small
    D: Small
    out_proj: int
    conv: int  # (W-1, E)
    conv_after: int
    h: int  # (E, S) fp32
    h_after: int


class Step(NamedTuple):
    """Arguments of one decoding step. Without norms there is one layer, and y is its output for x."""

    layers: int
    M: int
    E: int
    S: int
    W: int
    R: int
    item: int
    x: int
    y: int
    norm: Small  # the final norm
    eps: int  # address of an fp32
    # fp32, each padded to whole lanes: x and gate (E each), inner (E), x_proj (R+2S), Δ (E), gated (E), out (M)
    shared: int


LAYER_NUMBERS = 20  # int64 a layer
read_layer = reader(Layer)
read_step = reader(Step)


@inline
def whole_lanes(length):
    """`length` rounded up to a multiple of the lanes."""
    return (length + LANES - 1) // LANES * LANES


@inner
def normalised(p, norm, residual, out, to):
    """residual += out (if out is not 0); writes the RMSNorm of the sum to `to`."""
    squares = splat(0.0)
    for m in range(0, p.M, LANES):
        count = min(LANES, p.M - m)
        v = load(residual + 4 * m, 4, count)
        if out != 0:
            v = v + load(out + 4 * m, 4, count)
            store(residual + 4 * m, v, 4, count)
        squares = fma(v, v, squares)
    scale = splat((total(squares) / p.M + number(p.eps)) ** -0.5)
    for m in range(0, p.M, LANES):
        count = min(LANES, p.M - m)
        v = load(residual + 4 * m, 4, count) * scale * load(norm.at + m * norm.item, norm.item, count)
        store(to + 4 * m, v, 4, count)


@inner
def convolve(p, w, first, rows, xz, to):
    """Convolution and SiLU of channels `first` to `first + rows`; writes their next convolution state."""
    for e in range(first, first + rows, LANES):
        count = min(LANES, p.E - e)
        x = load(xz + 4 * e, 4, count)
        v = splat(0.0)
        if w.conv_bias.at != 0:
            v = load(w.conv_bias.at + e * w.conv_bias.item, w.conv_bias.item, count)
        item = w.conv_weight.item
        taps = w.conv_weight.at + e * p.W * item
        v = fma(column(taps + (p.W - 1) * item, item, p.W * item, count), x, v)
        for j in range(p.W - 1):
            past = load(w.conv + (j * p.E + e) * p.item, p.item, count)
            v = fma(column(taps + j * item, item, p.W * item, count), past, v)
            if j > 0:
                store(w.conv_after + ((j - 1) * p.E + e) * p.item, past, p.item, count)
        if p.W > 1:
            store(w.conv_after + ((p.W - 2) * p.E + e) * p.item, x, p.item, count)
        store(to + 4 * e, v * sigmoid(v), 4, count)


@inner
def recur(p, w, first, rows, u, dbc, dt, z, to):
    """The recurrence of channels `first` to `first + rows`. Lanes are states, which are contiguous for one channel."""
    for e in range(first, first + rows, LANES):
        count = min(LANES, p.E - e)
        d = load(dt + 4 * e, 4, count) + load(w.dt_bias.at + e * w.dt_bias.item, w.dt_bias.item, count)
        gate = load(z + 4 * e, 4, count)
        store(dt + 4 * e, softplus(d), 4, count)
        store(to + 4 * e, gate * sigmoid(gate), 4, count)
        y = load(u + 4 * e, 4, count) * load(w.D.at + e * w.D.item, w.D.item, count)
        store(z + 4 * e, y, 4, count)
        for lane in range(e, e + count):
            delta = number(dt + 4 * lane)
            push = splat(delta * number(u + 4 * lane))
            sums = splat(0.0)
            for s in range(0, p.S, LANES):
                states = min(LANES, p.S - s)
                at = lane * p.S + s
                A = exp2(load(w.A_log.at + at * w.A_log.item, w.A_log.item, states) * splat(LOG2E))
                decay = exp2(A * splat(-LOG2E * delta))
                b = load(dbc + 4 * (p.R + s), 4, states)
                v = fma(decay, load(w.h + 4 * at, 4, states), push * b)
                store(w.h_after + 4 * at, v, 4, states)
                sums = fma(v, load(dbc + 4 * (p.R + p.S + s), 4, states), sums)
            put_number(to + 4 * lane, (total(sums) + number(z + 4 * lane)) * number(to + 4 * lane))


@inner
def mix(job, p, w, phase, operand):
    """One mixer in four phases with barriers between them.

    The phases: in_proj and convolution; x_proj; Δ, recurrence and gate; out_proj.
    `operand` holds the input of the next product, as `in_pairs` lays it out.
    """
    xz = p.shared
    z = xz + 4 * whole_lanes(p.E)
    u = z + 4 * whole_lanes(p.E)
    dbc = u + 4 * whole_lanes(p.E)
    dt = dbc + 4 * whole_lanes(p.R + 2 * p.S)
    gated = dt + 4 * whole_lanes(p.E)
    y = gated + 4 * whole_lanes(p.E)
    half = (p.E + ROWS - 1) // ROWS
    i = next_task(job, phase)
    while i < 2 * half:
        first = i % half * ROWS
        rows = min(ROWS, p.E - first)
        if i < half:
            product(w.in_proj, p.item, p.M, operand, xz, first, rows)
            convolve(p, w, first, rows, xz, u)
        else:
            product(w.in_proj + p.item * p.E * p.M, p.item, p.M, operand, z, first, rows)
        i = next_task(job, phase)
    wait(job)
    low = p.R + 2 * p.S
    in_pairs(u, p.item, operand, p.E)
    i = next_task(job, phase + 1)
    while 4 * i < low:
        product(w.x_proj, p.item, p.E, operand, dbc, 4 * i, min(4, low - 4 * i))
        i = next_task(job, phase + 1)
    wait(job)
    in_pairs(dbc, p.item, operand, p.R)
    i = next_task(job, phase + 2)
    while i < half:
        rows = min(ROWS, p.E - i * ROWS)
        product(w.dt_proj, p.item, p.R, operand, dt, i * ROWS, rows)
        recur(p, w, i * ROWS, rows, u, dbc, dt, z, gated)
        i = next_task(job, phase + 2)
    wait(job)
    in_pairs(gated, p.item, operand, p.E)
    i = next_task(job, phase + 3)
    while i * ROWS < p.M:
        product(w.out_proj, p.item, p.E, operand, y, i * ROWS, min(ROWS, p.M - i * ROWS))
        i = next_task(job, phase + 3)
    wait(job)
    return y


@inner
def convert(x, item_x, to, item_to, length):
    """Copy a vector to another item size: fp32 to bf16 or back."""
    for i in range(0, length, LANES):
        count = min(LANES, length - i)
        store(to + i * item_to, load(x + i * item_x, item_x, count), item_to, count)


def scratch_floats(M, E, R):
    """fp32 numbers of scratch memory a thread: residual, norm, input of the next product."""
    return 2 * -(-M // LANES) * LANES + -(-max(M, E, R) // LANES) * LANES


@Kernel
def decode_layers(job):
    p = read_step(index(job + 8 * FIRST))
    table = index(job + 8 * SECOND)
    residual = thread_scratch(job)
    normal = residual + 4 * whole_lanes(p.M)
    operand = normal + 4 * whole_lanes(p.M)
    convert(p.x, p.item, residual, 4, p.M)
    out = 0
    for i in range(p.layers):
        w = read_layer(table + 8 * LAYER_NUMBERS * i)
        if w.norm.at != 0:
            normalised(p, w.norm, residual, out, normal)
            in_pairs(normal, p.item, operand, p.M)
        else:
            in_pairs(residual, p.item, operand, p.M)
        out = mix(job, p, w, 4 * i, operand)
    if next_task(job, 4 * p.layers) == 0:
        if p.norm.at != 0:
            normalised(p, p.norm, residual, out, normal)
            out = normal
        convert(out, 4, p.y, p.item, p.M)
