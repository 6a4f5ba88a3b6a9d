"""The operations on Triton's GPU kernels; nothing but torch and Triton is needed."""

from __future__ import annotations

from vlm_ssm.registration.inputs import for_all_inputs
from vlm_ssm.triton import conv as _conv
from vlm_ssm.triton import norm as _norm
from vlm_ssm.triton import scan as _scan
from vlm_ssm.triton.conv import conv
from vlm_ssm.triton.norm import add_rms_norm
from vlm_ssm.triton.scan import scan

__all__ = ["add_rms_norm", "conv", "conv_kernels", "norm_kernels", "scan", "scan_kernels"]

scan_kernels, conv_kernels, norm_kernels = (for_all_inputs(m.KERNELS) for m in (_scan, _conv, _norm))
