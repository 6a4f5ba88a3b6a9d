"""Cases of `ops.conv`, and its definition in float64."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from cases import gradients

from vlm_core.interfaces import PADDING
from vlm_ssm import boundaries_of, ops


class Case(NamedTuple):
    """What one convolution is made of; `front` and `runs` are about segments, `K` of 0 is without scan orders."""

    batch: int
    length: int
    width: int
    taps: int
    bias: bool = True
    state: bool = False
    segmented: bool = False
    K: int = 0
    own_rows: bool = False
    own_weights: bool = False
    seed: int = 0

    def build(self, dtype=torch.float32):
        """Tensors by name, segment numbers, scan orders."""
        torch.manual_seed(self.seed)
        J = max(1, self.K) if self.own_rows else 1
        P = max(1, self.K) if self.own_weights else 1
        tensors = {
            "x": torch.randn(self.batch, self.length, J, self.width).to(dtype),
            "weight": torch.randn(P, self.width, self.taps).to(dtype),
            "bias": torch.randn(P, self.width).to(dtype) if self.bias else None,
            "state": torch.randn(self.batch, self.taps - 1, self.width).to(dtype) if self.state else None,
        }
        scan_order = torch.stack([torch.randperm(self.length) for _ in range(self.K)]) if self.K else None
        leaves = {n: None if t is None else t.requires_grad_() for n, t in tensors.items()}
        return leaves, self.segments() if self.segmented else None, scan_order

    def segments(self):
        """Runs of up to three numbers, behind any amount of padding."""
        numbers = torch.randint(0, 3, (self.batch, self.length)).sort(1).values
        front = torch.randint(0, self.length + 1, (self.batch, 1))
        return torch.where(torch.arange(self.length) < front, PADDING, numbers)


def rows_of(parameter, x, scan_order):
    """A parameter (P, …) repeated for every row of every direction: (K, B, T, …)."""
    directions = x.shape[2] if scan_order is None else len(scan_order)
    return parameter[:, None, None].expand(directions, len(x), x.shape[1], *parameter.shape[1:])


def exact(x, weight, bias, state, segments, scan_order):
    """Window after window; a new segment begins with an empty one. Parameters are those of each row."""
    past, directions = weight.shape[-1] - 1, len(weight)
    outs = []
    for k in range(directions):
        column = k if x.shape[2] > 1 else 0
        rows = x[:, :, column] if scan_order is None else x[:, scan_order[k], column]
        for n, sequence in enumerate(rows.unbind(0)):
            empty = sequence.new_zeros(past, sequence.shape[1])
            window = empty if state is None else state[n]
            numbers = [0] * len(sequence) if segments is None else segments[n].tolist()
            outs.append(
                walk(sequence, numbers, window, empty, weight[k, n], None if bias is None else bias[k, n])
            )
    return torch.stack(outs).unflatten(0, (directions, len(x)))


def walk(rows, numbers, window, empty, weight, bias):
    """One sequence (T, E)."""
    latest, ys = None, []
    for t, (row, number) in enumerate(zip(rows.unbind(0), numbers, strict=True)):
        if number == PADDING:
            ys.append(torch.zeros_like(row))
            continue
        if latest is not None and number != latest:
            window = empty
        latest, rows_in_window = number, torch.cat([window, row[None]])
        window, y = rows_in_window[1:], (rows_in_window * weight[t].T).sum(0)
        ys.append(F.silu(y if bias is None else y + bias[t]))
    return torch.stack(ys)


def both(backend, tensors, segments, scan_order):
    """Outputs and gradients of a backend, and what they should be."""
    double = {n: None if t is None else t.detach().double().requires_grad_() for n, t in tensors.items()}
    boundaries = None if segments is None else boundaries_of(segments)
    y = ops.conv(**tensors, boundaries=boundaries, scan_order=scan_order, use=backend)
    parameters = {
        n: rows_of(double[n], double["x"], scan_order) for n in ("weight", "bias") if double[n] is not None
    }
    used = {n: t for n, t in tensors.items() if t is not None and t.numel()}
    found = {"y": y} | gradients([y], used)
    wanted = exact(**double | parameters, segments=segments, scan_order=scan_order)
    return found, {"y": wanted} | gradients([wanted], {n: double[n] for n in used})
