"""Plugin hooks of this package."""

from __future__ import annotations

from vlm_connectors import scans
from vlm_connectors.configs import LinearConfig, MLPConfig, MSCConfig, VSSL2Config, VSSMLPConfig
from vlm_connectors.reducer_configs import (
    LDPv2Config,
    PixelShuffleConfig,
    ResamplerConfig,
    StateQueryConfig,
)
from vlm_core.plugins import ConnectorConfig, Scan, hookimpl


@hookimpl
def vlm_connectors() -> list[type[ConnectorConfig]]:
    per_patch = [LinearConfig, MLPConfig, VSSMLPConfig, VSSL2Config, MSCConfig]
    return [*per_patch, PixelShuffleConfig, LDPv2Config, ResamplerConfig, StateQueryConfig]


@hookimpl
def vlm_scans() -> dict[str, Scan]:
    return {"bsm": scans.bsm, "csm": scans.csm}
