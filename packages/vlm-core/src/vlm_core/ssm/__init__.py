"""State-space operations: the one place where connectors and language models get their scans."""

from vlm_core.ssm.mixer import MambaMixer, SelectiveSSM, SSMState, grouped_ssm
from vlm_core.ssm.scan import BACKENDS, selective_scan

__all__ = ["BACKENDS", "MambaMixer", "SSMState", "SelectiveSSM", "grouped_ssm", "selective_scan"]
