"""The operations on numba's CPU kernels."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.numba import conv as _conv
from vlm_ssm.numba import norm as _norm
from vlm_ssm.numba import scan as _scan
from vlm_ssm.numba.conv import conv
from vlm_ssm.numba.norm import add_rms_norm
from vlm_ssm.numba.scan import scan
from vlm_ssm.registration.conv_op import ConvKernels
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.registration.norm_op import NormKernels
from vlm_ssm.registration.scan_op import ScanKernels

COMPUTES_AGAIN = False
"""Whether layers compute convolution, Δ, B and C again in their backward: on a CPU time is scarcer than memory."""

__all__ = ["add_rms_norm", "conv", "conv_kernels", "norm_kernels", "scan", "scan_kernels"]


def scan_kernels(inputs: ScanInputs, train: bool) -> ScanKernels:
    """The kernels for a scan of these inputs, with or without a backward."""
    return _scan.KERNELS


def conv_kernels(x: Tensor, weight: Tensor) -> ConvKernels:
    """The kernels for a convolution of x (B, T, J, E) with weight (P, W, E)."""
    return _conv.KERNELS


def norm_kernels(residual: Tensor) -> NormKernels:
    """The kernels for rows (…, M)."""
    return _norm.KERNELS
