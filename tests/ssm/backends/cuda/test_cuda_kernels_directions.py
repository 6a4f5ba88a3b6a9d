"""The scan in several directions on the CUDA kernels, against plain torch in fp32."""

import pytest
import torch
from cases import errors, gradients
from cuda_here import compiled, no_triton, on_the_gpu

from vlm_ssm import boundaries_of, ops
from vlm_ssm.cuda import scan, scan_forward
from vlm_ssm.registration.inputs import ScanInputs

__all__ = ["compiled", "no_triton", "on_the_gpu"]


def along_directions(K, keep, own, gated, segmented, S=16):
    """Tensors by name in bf16 where kernels read that, scan orders, `reset`."""
    N, T, E, P, J = 2, 77, 72, K if own else 1, K if keep else 1
    shapes = {
        "u": (K, N, T, E),
        "dt": (K, N, T, E),
        "A": (P, E, S),
        "B": (K, N, T, 1, S),
        "C": (K, N, T, 1, S),
        "D": (P, E),
        "bias": (P, E),
        "z": (N, T, J, E),
        "h0": (K, N, E, S),
    }
    tensors = {n: torch.randn(shape) for n, shape in shapes.items() if gated or n != "z"}
    tensors["A"] = -tensors["A"].exp()
    halves = {n: t.bfloat16() if n in ("u", "dt", "B", "C", "z") else t for n, t in tensors.items()}
    order = torch.stack([torch.randperm(T) for _ in range(K)])
    reset = boundaries_of(torch.randint(-1, 3, (N, T)).sort(1).values).reset if segmented else None
    return halves, order, reset


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("directions", [1, 2, 4])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_directions(directions, keep, own, gated, segmented):
    """Summed or apart, shared or own parameters, with and without gate, against plain torch in fp32."""
    check_directions(along_directions(directions, keep, own, gated, segmented), keep)


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("directions", [2, 4])
@pytest.mark.parametrize(
    ("own", "gated", "segmented"), [(False, True, False), (True, False, True), (True, True, True)]
)
def test_directions_that_wait_for_each_other(directions, own, gated, segmented, monkeypatch):
    """Sums of directions within one launch, as where blocks of one direction fill the GPU."""
    monkeypatch.setattr(scan, "can_chain", lambda _: True)
    split = scan_forward.forward_split
    whole = {"parts": 1, "part_tiles": 3}
    monkeypatch.setattr(scan_forward, "forward_split", lambda *a: split(*a)._replace(**whole))
    check_directions(along_directions(directions, False, own, gated, segmented), False)


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize("states", [8, 64])
@pytest.mark.parametrize("keep", [False, True])
def test_directions_of_other_states(states, keep):
    check_directions(along_directions(2, keep, keep, True, True, states), keep)


def check_directions(case, keep):
    (halves, order, reset), results = case, []
    for use, change in (("cuda", lambda t: t), ("torch", torch.Tensor.float)):
        tensors = {n: change(t.detach().clone()).requires_grad_() for n, t in halves.items()}
        inputs = ScanInputs(**tensors, reset=reset, scan_order=order, softplus=True, keep_directions=keep)
        y, last = ops.scan(inputs, use=use)
        found = {"y": y, "last": last} | gradients([y, last], tensors)
        results.append({n: t.float() for n, t in found.items()})
    far = {n: e for n, e in errors(*results).items() if not e <= 8e-3}
    assert not far, far
