"""What a plugin author imports: `hookimpl` and the base classes of component configs. Loads no torch."""

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
