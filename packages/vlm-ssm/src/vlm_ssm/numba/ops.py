"""The operations on numba's CPU kernels."""

from __future__ import annotations

from vlm_ssm.numba import conv as _conv
from vlm_ssm.numba import norm as _norm
from vlm_ssm.numba import scan as _scan
from vlm_ssm.numba.conv import conv
from vlm_ssm.numba.norm import add_rms_norm
from vlm_ssm.numba.scan import scan
from vlm_ssm.registration.inputs import for_all_inputs

COMPUTES_AGAIN = False
"""Whether layers compute convolution, Δ, B and C again in their backward: on a CPU time is scarcer than memory."""

__all__ = ["add_rms_norm", "conv", "conv_kernels", "norm_kernels", "scan", "scan_kernels"]

scan_kernels, conv_kernels, norm_kernels = (for_all_inputs(m.KERNELS) for m in (_scan, _conv, _norm))
