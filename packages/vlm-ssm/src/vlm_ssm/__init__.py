"""Mamba-1 on CPUs and GPUs: selective scan, causal convolution, fused norm, and layers."""

from vlm_ssm.backends import BACKENDS
from vlm_ssm.causal_conv1d import causal_conv1d
from vlm_ssm.layers.accelerate import accelerate
from vlm_ssm.layers.decode import linear
from vlm_ssm.layers.mamba import Mamba
from vlm_ssm.layers.mixer import (
    MambaMixer,
    SelectiveSSM,
    SSMState,
    add_norm_mix,
    cast_parameters,
    scan_along,
)
from vlm_ssm.ops import add_rms_norm
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.segments import PADDING, SegmentBoundaries, boundaries_of
from vlm_ssm.selective_scan import selective_scan

__all__ = [
    "BACKENDS",
    "PADDING",
    "Mamba",
    "MambaMixer",
    "SSMState",
    "ScanInputs",
    "SegmentBoundaries",
    "SelectiveSSM",
    "accelerate",
    "add_norm_mix",
    "add_rms_norm",
    "boundaries_of",
    "cast_parameters",
    "causal_conv1d",
    "linear",
    "scan_along",
    "selective_scan",
]
