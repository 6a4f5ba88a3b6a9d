"""The operations on Triton's GPU kernels; nothing but torch and Triton is needed."""

from __future__ import annotations

from vlm_ssm.triton.conv import conv
from vlm_ssm.triton.norm import add_rms_norm
from vlm_ssm.triton.scan import scan

__all__ = ["add_rms_norm", "conv", "scan"]
