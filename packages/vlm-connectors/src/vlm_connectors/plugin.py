"""Plugin hooks of this package; a hook imports the configs when it is called."""

from __future__ import annotations

from vlm_core.plugins import ConnectorConfig, Scan, hookimpl


@hookimpl
def vlm_connectors() -> list[type[ConnectorConfig]]:
    from vlm_connectors.configs import LinearConfig, MLPConfig, MSCConfig, VSSL2Config, VSSMLPConfig
    from vlm_connectors.reducer_configs import (
        LDPv2Config,
        PixelShuffleConfig,
        ResamplerConfig,
        StateQueryConfig,
    )

    per_patch = [LinearConfig, MLPConfig, VSSMLPConfig, VSSL2Config, MSCConfig]
    return [*per_patch, PixelShuffleConfig, LDPv2Config, ResamplerConfig, StateQueryConfig]


@hookimpl
def vlm_scans() -> dict[str, Scan]:
    from vlm_connectors import scans

    return {"bsm": scans.bsm, "csm": scans.csm}
