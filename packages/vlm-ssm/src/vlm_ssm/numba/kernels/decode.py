"""One token of each sequence through a stack of Mamba layers in one parallel region.

Every matrix is read once for all sequences. Every thread has its own copy of the residuals and computes the norms
itself: that costs less than a barrier. A sequence's result does not depend on the others.
"""

from __future__ import annotations

from typing import NamedTuple

from vlm_ssm.numba.kernels.jit import FIRST, SECOND, Kernel, inline, inner
from vlm_ssm.numba.kernels.load_store import column, load, store
from vlm_ssm.numba.kernels.matvec import ROWS, Vectors, in_pairs, product
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
    conv: int  # (B, W-1, E)
    conv_after: int
    h: int  # (B, E, S) fp32
    h_after: int


class Step(NamedTuple):
    """Arguments of one decoding step. Without norms there is one layer, and y is its output for x."""

    batch: int
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
    shared: int  # fp32 memory of `shared_floats`


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
def convolve(p, w, first, rows, xz, u, local):
    """Convolution and SiLU of channels `first` to `first + rows`; writes their next convolution state.

    Writes u, and over xz the same in the order of `in_pairs`.
    """
    item = w.conv_weight.item
    for e in range(first, first + rows, LANES):
        count = min(LANES, p.E - e)
        taps = w.conv_weight.at + e * p.W * item
        for j in range(p.W):
            store(local + 4 * LANES * j, column(taps + j * item, item, p.W * item, count), 4, LANES)
        for b in range(p.batch):
            past, after = p.item * (b * (p.W - 1) * p.E + e), p.item * p.E
            x = load(xz.at + b * xz.stride + 4 * e, 4, count)
            v = splat(0.0)
            if w.conv_bias.at != 0:
                v = load(w.conv_bias.at + e * w.conv_bias.item, w.conv_bias.item, count)
            v = fma(load(local + 4 * LANES * (p.W - 1), 4, LANES), x, v)
            for j in range(p.W - 1):
                before = load(w.conv + past + j * after, p.item, count)
                v = fma(load(local + 4 * LANES * j, 4, LANES), before, v)
                if j > 0:
                    store(w.conv_after + past + (j - 1) * after, before, p.item, count)
            if p.W > 1:
                store(w.conv_after + past + (p.W - 2) * after, x, p.item, count)
            store(u.at + b * u.stride + 4 * e, v * sigmoid(v), 4, count)
    for b in range(p.batch):
        in_pairs(u.at + b * u.stride + 4 * first, p.item, xz.at + b * xz.stride + 4 * first, rows)


@inner
def gates(p, w, e, count, b, s):
    """Of channels e to e + count, in place: Δ and its softplus; z and D·u; SiLU(z) to `gated`."""
    at = 4 * e
    dt, z = s.dt.at + b * s.dt.stride + at, s.z.at + b * s.z.stride + at
    d = load(dt, 4, count) + load(w.dt_bias.at + e * w.dt_bias.item, w.dt_bias.item, count)
    gate = load(z, 4, count)
    store(dt, softplus(d), 4, count)
    store(s.gated.at + b * s.gated.stride + at, gate * sigmoid(gate), 4, count)
    y = load(s.u.at + b * s.u.stride + at, 4, count) * load(w.D.at + e * w.D.item, w.D.item, count)
    store(z, y, 4, count)


@inline
def recur_channel(p, w, lane, b, s, A):
    """The recurrence of one channel of one sequence. Lanes are states, which are contiguous."""
    at, dbc = 4 * lane, s.dbc.at + b * s.dbc.stride
    delta = number(s.dt.at + b * s.dt.stride + at)
    push = splat(delta * number(s.u.at + b * s.u.stride + at))
    sums = splat(0.0)
    for i in range(0, p.S, LANES):
        states, h = min(LANES, p.S - i), 4 * ((b * p.E + lane) * p.S + i)
        decay = exp2(load(A + 4 * i, 4, states) * splat(-LOG2E * delta))
        v = fma(decay, load(w.h + h, 4, states), push * load(dbc + 4 * (p.R + i), 4, states))
        store(w.h_after + h, v, 4, states)
        sums = fma(v, load(dbc + 4 * (p.R + p.S + i), 4, states), sums)
    gated = s.gated.at + b * s.gated.stride + at
    put_number(gated, (total(sums) + number(s.z.at + b * s.z.stride + at)) * number(gated))


@inner
def recur(p, w, first, rows, s, local):
    """Recurrence and gate of channels `first` to `first + rows`: writes `gated`, and over Δ the same in pairs."""
    for e in range(first, first + rows, LANES):
        count = min(LANES, p.E - e)
        for b in range(p.batch):
            gates(p, w, e, count, b, s)
        for lane in range(e, e + count):
            for i in range(0, p.S, LANES):
                states, at = min(LANES, p.S - i), w.A_log.at + (lane * p.S + i) * w.A_log.item
                store(local + 4 * i, exp2(load(at, w.A_log.item, states) * splat(LOG2E)), 4, states)
            for b in range(p.batch):
                recur_channel(p, w, lane, b, s, local)
    for b in range(p.batch):
        at = 4 * first
        in_pairs(s.gated.at + b * s.gated.stride + at, p.item, s.dt.at + b * s.dt.stride + at, rows)


class Shared(NamedTuple):
    """The activations of one layer, which all threads share."""

    xz: Vectors  # x of in_proj, then the convolution's output in pairs
    z: Vectors
    u: Vectors
    dbc: Vectors
    dt: Vectors  # Δ, then the gated output in pairs
    gated: Vectors
    y: Vectors


@inner
def vectors(at, length, batch):
    return Vectors(at, 4 * whole_lanes(length), batch)


@inner
def shared_vectors(p):
    """The parts of `shared`, as `shared_floats` counts them."""
    wide, low = 4 * whole_lanes(p.E) * p.batch, 4 * whole_lanes(p.R + 2 * p.S) * p.batch
    return Shared(
        vectors(p.shared, p.E, p.batch),
        vectors(p.shared + wide, p.E, p.batch),
        vectors(p.shared + 2 * wide, p.E, p.batch),
        vectors(p.shared + 5 * wide, p.R + 2 * p.S, p.batch),
        vectors(p.shared + 3 * wide, p.E, p.batch),
        vectors(p.shared + 4 * wide, p.E, p.batch),
        vectors(p.shared + 5 * wide + low, p.M, p.batch),
    )


def shared_floats(batch, M, E, S, R):
    """fp32 numbers of shared memory, each vector padded to whole lanes."""
    return batch * sum(-(-n // LANES) * LANES for n in (*[E] * 5, R + 2 * S, M))


@inner
def mix(job, p, w, phase, s, operand, local):
    """One mixer in four phases with barriers between them.

    The phases: in_proj and convolution; x_proj; Δ, recurrence and gate; out_proj.
    `operand` holds the layer's input, as `in_pairs` lays it out.
    """
    half = (p.E + ROWS - 1) // ROWS
    i = next_task(job, phase)
    while i < 2 * half:
        first = i % half * ROWS
        rows = min(ROWS, p.E - first)
        if i < half:
            product(w.in_proj, p.item, p.M, operand, s.xz, first, rows)
            convolve(p, w, first, rows, s.xz, s.u, local)
        else:
            product(w.in_proj + p.item * p.E * p.M, p.item, p.M, operand, s.z, first, rows)
        i = next_task(job, phase)
    wait(job)
    low = p.R + 2 * p.S
    i = next_task(job, phase + 1)
    while 4 * i < low:
        product(w.x_proj, p.item, p.E, s.xz, s.dbc, 4 * i, min(4, low - 4 * i))
        i = next_task(job, phase + 1)
    wait(job)
    for b in range(p.batch):
        in_pairs(s.dbc.at + b * s.dbc.stride, p.item, operand.at + b * operand.stride, p.R)
    i = next_task(job, phase + 2)
    while i < half:
        rows = min(ROWS, p.E - i * ROWS)
        product(w.dt_proj, p.item, p.R, operand, s.dt, i * ROWS, rows)
        recur(p, w, i * ROWS, rows, s, local)
        i = next_task(job, phase + 2)
    wait(job)
    i = next_task(job, phase + 3)
    while i * ROWS < p.M:
        product(w.out_proj, p.item, p.E, s.dt, s.y, i * ROWS, min(ROWS, p.M - i * ROWS))
        i = next_task(job, phase + 3)
    wait(job)


@inner
def convert(x, item_x, to, item_to, length):
    """Copy a vector to another item size: fp32 to bf16 or back."""
    for i in range(0, length, LANES):
        count = min(LANES, length - i)
        store(to + i * item_to, load(x + i * item_x, item_x, count), item_to, count)


def scratch_floats(batch, M, S, W, R):
    """fp32 numbers of scratch memory a thread: residuals, inputs of in_proj and dt_proj, norm, taps or A."""
    wide = -(-M // LANES) * LANES
    operand = max(wide, -(-R // LANES) * LANES)
    return batch * (wide + operand) + wide + max(LANES * W, -(-S // LANES) * LANES)


@inner
def layer_inputs(p, w, s, out, residual, operand, normal):
    """The inputs of in_proj in the order of `in_pairs`; residual += the layer before's output if `out`."""
    for b in range(p.batch):
        row = residual + 4 * whole_lanes(p.M) * b
        source = row
        if w.norm.at != 0:
            normalised(p, w.norm, row, s.y.at + b * s.y.stride if out else 0, normal)
            source = normal
        in_pairs(source, p.item, operand.at + b * operand.stride, p.M)


@Kernel
def decode_layers(job):
    p = read_step(index(job + 8 * FIRST))
    table, s = index(job + 8 * SECOND), shared_vectors(p)
    residual, wide = thread_scratch(job), whole_lanes(p.M)
    operand = vectors(residual + 4 * p.batch * wide, max(p.M, p.R), p.batch)
    normal = operand.at + p.batch * operand.stride
    for b in range(p.batch):
        convert(p.x + b * p.M * p.item, p.item, residual + 4 * wide * b, 4, p.M)
    for i in range(p.layers):
        w = read_layer(table + 8 * LAYER_NUMBERS * i)
        layer_inputs(p, w, s, i > 0, residual, operand, normal)
        mix(job, p, w, 4 * i, s, operand, normal + 4 * wide)
    b = next_task(job, 4 * p.layers)
    while b < p.batch:
        out = s.y.at + b * s.y.stride
        if p.norm.at != 0:
            normalised(p, p.norm, residual + 4 * wide * b, out, normal)
            out = normal
        convert(out, 4, p.y + b * p.M * p.item, p.item, p.M)
        b = next_task(job, 4 * p.layers)
