"""State-space operations: the one place where connectors and language models get their scans."""

from vlm_core.ssm.backends import BACKENDS
from vlm_core.ssm.edges import Edges, edges_of
from vlm_core.ssm.mixer import MambaMixer, SelectiveSSM, SSMState, scan_along
from vlm_core.ssm.ops import add_norm
from vlm_core.ssm.scan import selective_scan
from vlm_core.ssm.step import linear

__all__ = [
    "BACKENDS",
    "Edges",
    "MambaMixer",
    "SSMState",
    "SelectiveSSM",
    "add_norm",
    "edges_of",
    "linear",
    "scan_along",
    "selective_scan",
]
