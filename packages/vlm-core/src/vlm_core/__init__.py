"""Any vision encoder × any connector × any language model, named in one YAML spec.

Importing this package is fast: it doesn't import torch.
"""

from vlm_core.errors import SpecError, UserError
from vlm_core.plugins.config import (
    NO_WEIGHTS,
    BenchmarkConfig,
    ConnectorConfig,
    DatasetConfig,
    EncoderConfig,
    LLMConfig,
    WeightsSource,
    random_values,
)
from vlm_core.plugins.hooks import hookimpl

__all__ = [
    "NO_WEIGHTS",
    "BenchmarkConfig",
    "ConnectorConfig",
    "DatasetConfig",
    "EncoderConfig",
    "LLMConfig",
    "SpecError",
    "UserError",
    "WeightsSource",
    "hookimpl",
    "random_values",
]
