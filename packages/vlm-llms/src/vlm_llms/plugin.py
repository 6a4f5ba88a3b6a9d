"""Plugin hooks of this package; a hook imports the configs when it is called."""

from vlm_core.plugins import LLMConfig, hookimpl


@hookimpl
def vlm_llms() -> list[type[LLMConfig]]:
    """Language models."""
    from vlm_llms.configs import TransformersLLMConfig
    from vlm_llms.mamba.mamba_config import MambaConfig

    return [MambaConfig, TransformersLLMConfig]
