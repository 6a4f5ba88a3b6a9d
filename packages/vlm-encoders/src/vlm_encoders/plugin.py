"""Plugin hooks of this package; imports pydantic and vlm_core only, and the configs when a hook is called."""

from vlm_core.plugins import EncoderConfig, hookimpl


@hookimpl
def vlm_encoders() -> list[type[EncoderConfig]]:
    """The encoder types of this package."""
    from vlm_encoders.configs import FusedConfig, OpenClipConfig, TimmConfig, TransformersConfig

    return [TimmConfig, OpenClipConfig, TransformersConfig, FusedConfig]
