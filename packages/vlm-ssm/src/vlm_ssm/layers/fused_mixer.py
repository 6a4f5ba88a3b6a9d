"""When a Mamba layer runs as one operation, and the call.

It does unless a submodule is hooked, wrapped or replaced; `why_not_fused` names the reason.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from vlm_ssm import backends
from vlm_ssm.fused.compute_dtype import compute_dtype
from vlm_ssm.fused.inputs import MixerInputs, MixerOutputs
from vlm_ssm.fused.op import mixer
from vlm_ssm.layers.hooked_modules import DeltaProjection, has_no_hooks
from vlm_ssm.registration.layouts import NATIVE
from vlm_ssm.segments import SegmentBoundaries

_KINDS = {
    "in_proj": nn.Linear,
    "conv1d": nn.Conv1d,
    "x_proj": nn.Linear,
    "dt_proj": DeltaProjection,
    "out_proj": nn.Linear,
}
_ORDINARY = (nn.Parameter, Tensor, FakeTensor)


def why_not_fused(layer: Any, dtype: torch.dtype) -> str | None:
    """Why a layer can't run as one operation whose matrix products have `dtype`; None if it can."""
    modules, parameters = layer._modules, layer._parameters
    for name, kind in _KINDS.items():
        if reason := _why_not_plain(name, modules[name], kind):
            return reason
    for name in ("A_log", "D"):
        if type(parameters.get(name)) not in _ORDINARY:
            return f"{name} is no ordinary parameter"
    if modules["x_proj"]._parameters["bias"] is not None:
        return "x_proj has a bias"
    if modules["dt_proj"]._parameters["bias"] is None:
        return "dt_proj has no bias"
    return None if dtype in NATIVE else f"products in {dtype}; the operation computes in fp32 and bf16"


def _why_not_plain(name: str, module: Any, kind: type[nn.Module]) -> str | None:
    if type(module) is not kind:
        return f"{name} is a {type(module).__module__}.{type(module).__qualname__}"
    if not has_no_hooks(module):
        return f"{name} has hooks"
    parameters = module._parameters
    if type(parameters.get("weight")) not in _ORDINARY:
        return f"the weight of {name} is a {type(getattr(module, 'weight', None)).__name__}, no ordinary parameter"
    return None


def why_backend_cannot_fuse(backend: str) -> str | None:
    """Why layers run as separate operations on a backend; None if they run as one.

    Where autograd differentiates the operations, as on plain torch, one operation would compute its forward twice.
    """
    fused = hasattr(backends.module(backend), "scan_kernels")
    return None if fused else f"backend {backend} is differentiated by autograd"


def fuses(layer: Any, x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether `fused_mixer` computes this layer on x; `dtype`: of what the layer reads, if it isn't x's."""
    if why_backend_cannot_fuse(backends.chosen(x.device)):
        return False
    autocast, dtype = torch.is_autocast_enabled(x.device.type), compute_dtype(x, dtype)
    reason = (
        why_not_fused(layer, dtype) or (None if autocast else _why_not_of(layer, dtype)) or _why_not_now(x)
    )
    if reason and not torch.compiler.is_compiling():
        _report(reason)
    return reason is None


def _why_not_of(layer: Any, dtype: torch.dtype) -> str | None:
    """Without autocast, torch multiplies matrices of one dtype only; its message is better than one of ours."""
    modules = layer._modules
    names = ("in_proj", "x_proj", "dt_proj", "out_proj")
    other = [name for name in names if modules[name]._parameters["weight"].dtype != dtype]
    return f"{other[0]} is not in {dtype}" if other else None


def _why_not_now(x: Tensor) -> str | None:
    """A mode that replaces products, such as bf16 ones on CPUs without instructions for them, reaches no operation."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return None
    return "a mode of torch replaces products" if torch._C._len_torch_function_stack() else None


@cache
def _report(reason: str) -> None:
    """Once a reason."""
    sys.stderr.write(f"vlm-ssm: a layer runs as separate operations, which is slower: {reason}\n")


def fused_mixer(
    layer: Any,
    x: Tensor,
    boundaries: SegmentBoundaries | None,
    state: tuple[Tensor, Tensor] | None,
    *,
    norm: tuple[Tensor, float] | None = None,
    out: Tensor | None = None,
) -> MixerOutputs:
    """The layer on x (B, T, M), or with `norm` (weight, eps) on the norm of residual x + `out`. Check `fuses` first.

    Raises `ValueError` for a state or segments of another shape: kernels read memory by address.
    """
    modules, parameters = layer._modules, layer._parameters
    ins, conv, dt, outs = (modules[n]._parameters for n in ("in_proj", "conv1d", "dt_proj", "out_proj"))
    conv_state, ssm_state = state or (None, None)
    reset, history, left_pad = boundaries or (None, None, None)
    weight, eps = norm or (None, 0.0)
    if out is not None:  # the kernel reads it by address
        out = (out if out.dtype in NATIVE else out.float()).contiguous()
    dtype = compute_dtype(x, None if weight is None else weight.dtype)
    inputs = MixerInputs(
        x.contiguous() if norm else x.to(dtype),
        out,
        weight,
        ins["weight"],
        ins["bias"],
        conv["weight"],
        conv["bias"],
        modules["x_proj"]._parameters["weight"],
        dt["weight"],
        dt["bias"],
        parameters["A_log"],
        parameters["D"],
        outs["weight"],
        outs["bias"],
        conv_state,
        ssm_state,
        reset,
        history,
        left_pad,
        eps,
        dtype,
        backends.chosen(x.device),
    )
    _check_shapes(inputs, (layer.d_inner, layer.d_state, layer.d_conv, layer.dt_rank))
    return mixer(inputs)


def _check_shapes(inputs: MixerInputs, sizes: tuple[int, int, int, int]) -> None:
    """`sizes`: inner width E, state size S, window W, rank R of Δ."""
    (N, T, M), (E, S, W, R) = inputs.x.shape, sizes
    _expect("in_proj.weight", inputs.in_proj, (2 * E, M))
    _expect("conv1d.weight", inputs.conv, (E, 1, W))
    _expect("conv1d.bias", inputs.conv_bias, (E,))
    _expect("x_proj.weight", inputs.x_proj, (R + 2 * S, E))
    _expect("dt_proj.weight", inputs.dt_proj, (E, R))
    _expect("dt_proj.bias", inputs.dt_bias, (E,))
    _expect("A_log", inputs.A_log, (E, S))
    _expect("D", inputs.D, (E,))
    _expect("state", inputs.conv_state, (N, W - 1, E))
    _expect("initial_state", inputs.ssm_state, (N, E, S))
    _expect("segments", inputs.reset, (N, T))
    _expect("norm.weight", inputs.norm, (M,))
    _expect("out", inputs.out, (N, T, M))


def _expect(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")
