"""The plugin API: `hookimpl` and the base classes of component configs; the registry. Doesn't import torch."""

from vlm_core.errors import UserError
from vlm_core.plugins.config import (
    NO_WEIGHTS,
    BenchmarkConfig,
    ConnectorConfig,
    DatasetConfig,
    Download,
    EncoderConfig,
    FactoryCall,
    LLMConfig,
    StrictModel,
    WeightsSource,
    random_values,
)
from vlm_core.plugins.hooks import Scan, hookimpl

__all__ = [
    "API",
    "NO_WEIGHTS",
    "BenchmarkConfig",
    "ConnectorConfig",
    "DatasetConfig",
    "Download",
    "EncoderConfig",
    "FactoryCall",
    "LLMConfig",
    "Scan",
    "StrictModel",
    "UserError",
    "WeightsSource",
    "hookimpl",
    "random_values",
]

API = 1
"""Version of the plugin API: hooks, base classes and contracts. It is increased when existing plugins must change."""
