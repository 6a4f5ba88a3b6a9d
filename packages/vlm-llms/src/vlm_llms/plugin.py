"""Plugin hooks of this package."""

from vlm_core.plugins.config import LLMConfig
from vlm_core.plugins.hooks import hookimpl
from vlm_llms.configs import TransformersLLMConfig
from vlm_llms.mamba_config import MambaConfig


@hookimpl
def vlm_llms() -> list[type[LLMConfig]]:
    """Language models."""
    return [MambaConfig, TransformersLLMConfig]
