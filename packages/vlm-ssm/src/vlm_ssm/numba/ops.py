"""The operations on numba's CPU kernels."""

from __future__ import annotations

from vlm_ssm.numba.conv import conv
from vlm_ssm.numba.norm import add_rms_norm
from vlm_ssm.numba.scan import scan

__all__ = ["add_rms_norm", "conv", "scan"]
