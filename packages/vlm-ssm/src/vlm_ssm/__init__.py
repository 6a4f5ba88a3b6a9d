"""State-space operations: the one place where connectors and language models get their scans."""

from vlm_ssm.backends import BACKENDS
from vlm_ssm.decode import linear
from vlm_ssm.mixer import MambaMixer, SelectiveSSM, SSMState, scan_along
from vlm_ssm.ops import add_rms_norm
from vlm_ssm.segments import SegmentBoundaries, boundaries_of
from vlm_ssm.selective_scan import selective_scan

__all__ = [
    "BACKENDS",
    "MambaMixer",
    "SSMState",
    "SegmentBoundaries",
    "SelectiveSSM",
    "add_rms_norm",
    "boundaries_of",
    "linear",
    "scan_along",
    "selective_scan",
]
