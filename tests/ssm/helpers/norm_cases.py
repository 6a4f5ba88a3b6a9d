"""Inputs of `ops.add_rms_norm`, and its definition in float64."""

import torch
from cases import gradients

from vlm_ssm import ops


def exact(residual, out, weight, eps):
    """residual + out, and that by its root mean square."""
    summed = residual if out is None else residual + out
    return summed, summed / (summed.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def tensors(shape, added, dtype=torch.float32, scale=1.0):
    """Random arguments by name; the residual is fp32 whatever the weights are."""
    inputs = {"residual": scale * torch.randn(shape), "out": scale * torch.randn(shape).to(dtype)}
    inputs["weight"] = torch.randn(shape[-1]).to(dtype)
    return {n: None if n == "out" and not added else t.requires_grad_() for n, t in inputs.items()}


def both(backend, case, eps=1e-5):
    """Outputs and gradients of a backend, and what they should be."""
    double = {n: None if t is None else t.detach().double().requires_grad_() for n, t in case.items()}
    results = []
    for (summed, y), inputs in (
        (ops.add_rms_norm(**case, eps=eps, use=backend), case),
        (exact(**double, eps=eps), double),
    ):
        results.append({"summed": summed, "y": y} | gradients([summed, y], inputs))
    return results
