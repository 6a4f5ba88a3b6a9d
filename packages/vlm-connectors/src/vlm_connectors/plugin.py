"""What this package offers to vlm-core."""

from __future__ import annotations

from vlm_connectors import scans
from vlm_connectors.configs import MLPConfig, VSSL2Config, VSSMLPConfig
from vlm_core.config import ConnectorConfig
from vlm_core.hooks import Scan, hookimpl


@hookimpl
def vlm_connectors() -> list[type[ConnectorConfig]]:
    return [MLPConfig, VSSMLPConfig, VSSL2Config]


@hookimpl
def vlm_scans() -> dict[str, Scan]:
    return {"bsm": scans.bsm, "csm": scans.csm}
