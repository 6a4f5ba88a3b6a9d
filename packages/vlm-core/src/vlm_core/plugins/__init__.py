"""Plugins: `hookimpl` and the base classes of component configs, for plugin authors; the registry. Loads no torch."""

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
"""Number of the plugin API. It rises when a plugin must change: a hook, a base class or a contract of a component."""
