"""Sizes that the CUDA kernels don't take are padded with zeros: the same outputs and gradients, on any backend."""

import pytest
import torch
from cases import assert_near, gradients

from vlm_ssm import ops
from vlm_ssm.cuda.shapes.padding import VECTOR, scan_padded
from vlm_ssm.registration.inputs import ScanInputs


def tensors(states, width, groups, gated, keep):
    K, N, T, J = 2, 2, 9, 2 if keep else 1
    shapes = {
        "u": (K, N, T, width),
        "dt": (K, N, T, width),
        "A": (1, width, states),
        "B": (K, N, T, groups, states),
        "C": (K, N, T, groups, states),
        "D": (1, width),
        "bias": (1, width),
        "z": (N, T, J, width),
        "h0": (K, N, width, states),
    }
    made = {
        n: torch.randn(shape).double() for n, shape in shapes.items() if gated or n not in ("z", "h0", "D")
    }
    made["A"] = -made["A"].exp()
    return {n: t.requires_grad_() for n, t in made.items()}


def sizes_checked(inputs):
    """The scan on plain torch, of sizes that kernels take."""
    width, states, groups = inputs.u.shape[3], inputs.A.shape[2], inputs.B.shape[3]
    assert width // groups % VECTOR == 0
    assert states in (8, 16, 24, 32, 40, 48, 64)
    return ops.scan(inputs, use="torch")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("states", "width", "groups"),
    [(16, 16, 1), (3, 16, 2), (16, 13, 1), (50, 27, 3), (20, 16, 1), (64, 9, 1)],
)
def test_padding_changes_nothing(states, width, groups, keep, gated):
    torch.manual_seed(states)
    case = tensors(states, width, groups, gated, keep)
    order = torch.stack([torch.randperm(9) for _ in range(2)])
    inputs = ScanInputs(**case, scan_order=order, softplus=True, keep_directions=keep)
    results = []
    for y, last in (scan_padded(inputs, sizes_checked), ops.scan(inputs, use="torch")):
        results.append({"y": y, "last": last} | gradients([y, last], case))
    assert_near(*results, 1e-6)
