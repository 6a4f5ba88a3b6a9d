"""Any vision encoder × any connector × any language model, named in one YAML spec.

Importing this package costs nothing: torch is loaded only by the modules that compute.
"""

from vlm_core.config import BenchmarkConfig, ConnectorConfig, DatasetConfig, EncoderConfig, LLMConfig
from vlm_core.errors import SpecError, UserError
from vlm_core.hooks import hookimpl

__all__ = [
    "BenchmarkConfig",
    "ConnectorConfig",
    "DatasetConfig",
    "EncoderConfig",
    "LLMConfig",
    "SpecError",
    "UserError",
    "hookimpl",
]
