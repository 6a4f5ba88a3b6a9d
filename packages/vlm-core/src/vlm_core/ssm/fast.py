"""The operations on numba's CPU kernels."""

from __future__ import annotations

from vlm_core.ssm.fast_conv import conv
from vlm_core.ssm.fast_norm import add_norm
from vlm_core.ssm.fast_scan import scan

__all__ = ["add_norm", "conv", "scan"]
