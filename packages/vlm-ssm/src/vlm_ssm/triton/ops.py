"""The operations on Triton's GPU kernels; nothing but torch and Triton is needed."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.registration.conv_op import ConvKernels
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.registration.norm_op import NormKernels
from vlm_ssm.registration.scan_op import ScanKernels
from vlm_ssm.triton import conv as _conv
from vlm_ssm.triton import norm as _norm
from vlm_ssm.triton import scan as _scan
from vlm_ssm.triton.conv import conv
from vlm_ssm.triton.norm import add_rms_norm
from vlm_ssm.triton.scan import scan

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
