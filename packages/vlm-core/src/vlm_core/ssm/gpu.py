"""The operations on Triton's GPU kernels; nothing but torch and Triton is needed."""

from __future__ import annotations

from vlm_core.ssm.gpu_conv import conv
from vlm_core.ssm.gpu_norm import add_norm
from vlm_core.ssm.gpu_scan import scan

__all__ = ["add_norm", "conv", "scan"]
